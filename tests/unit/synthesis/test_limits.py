"""Limits a minute: no window of sixty seconds holds more than was allowed."""

import random

import pytest

from tianji_helpers.synthesis.limits import Pace


def windows(sent):
    """For each moment, the sum over the minute that begins there."""
    return [sum(n for later, n in sent if moment <= later < moment + 60) for moment, _ in sent]


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_holds_more_requests_than_allowed(seed):
    rng, now, sent = random.Random(seed), 1000.0, []
    pace = Pace(rpm=50)
    for _ in range(300):
        now += rng.expovariate(2.0)  # they come faster than they may go
        sent.append((pace.reserve(10, now), 1))
    assert all(moment >= 1000 for moment, _ in sent)
    assert max(windows(sent)) <= 50
    assert sent[-1][0] - sent[0][0] == pytest.approx(299 * 60 / 50, rel=0.02)  # and none is wasted


@pytest.mark.parametrize("error", [0, 40, -40])
def test_no_minute_holds_more_tokens_than_allowed_and_one_request(error):
    pace, sent = Pace(tpm=6000), []
    for _ in range(200):
        moment = pace.reserve(100, 0.0)
        pace.correct(error)  # the server counts otherwise than we guessed
        sent.append((moment, 100 + error))
    assert max(windows(sent)) <= 6000 + 100 + error
    assert max(windows(sent)) >= 5800


def test_without_limits_nothing_waits():
    pace = Pace()
    assert [pace.reserve(10**6, 3.0) for _ in range(3)] == [3.0, 3.0, 3.0]


def test_a_quiet_time_is_not_saved_up():
    pace = Pace(rpm=60)
    pace.reserve(1, 0.0)
    assert [pace.reserve(1, 100.0) for _ in range(2)] == [100.0, 101.0]
