import asyncio
import itertools
import random

import pytest

from tianji_helpers.synthesis import lanes


async def source(count):
    for item in range(count):
        yield item


def drawn(count, order):
    """Return what each lane gives when they are asked in this order, and again until nothing is left."""

    async def draw():
        dealt = lanes.deal(source(count), len(set(order)))
        found = [[] for _ in dealt]
        while True:
            for lane in order:
                if (item := await anext(dealt[lane], None)) is None:
                    return found
                found[lane].append(item)

    return asyncio.run(draw())


def jumps(items):
    return sum(after != before + 1 for before, after in itertools.pairwise(items))


def test_two_lanes_go_through_neighbours():
    assert drawn(10, [0, 1]) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_who_is_done_takes_the_second_half_of_what_another_has_left():
    # the second one answers three times as fast
    assert drawn(12, [0, 1, 1, 1]) == [[0, 1, 2], [6, 7, 8, 9, 10, 11, 4, 5, 3]]


def test_what_comes_first_is_taken_first():
    """Rounds stand one after the other, and are written when they are complete."""
    found = drawn(1000, [0, 1, 2])
    assert found[0][:40] == [*range(32), *range(96, 104)] and found[1][:32] == [*range(32, 64)]
    begun = [max(part[:100]) for part in found]
    assert max(begun) < 3 * (100 + lanes._STRETCH)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_each_item_comes_once_and_with_few_jumps(seed):
    rng = random.Random(seed)
    workers = rng.randint(1, 8)
    order = [*range(workers), *rng.choices(range(workers), k=50)]
    count = rng.randint(0, 200)
    found = drawn(count, order)
    assert sorted(itertools.chain(*found)) == list(range(count))
    # a lane begins anew where a stretch ends, and where it takes half of another's, which halves what is left
    assert sum(map(jumps, found)) <= count // lanes._STRETCH + 2 * workers
