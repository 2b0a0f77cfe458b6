"""The recorded answers that the repository ships, held against the prompts they claim to answer."""

import json
import re
from collections import Counter

import pytest

from tianji_helpers import emoji, faults, wishes
from tianji_helpers.dataset import duplicates
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prompts, recordings

MATRIX = wishes.load()
REPEATED = 0.015  # the share of wishes that may begin, or end, with the same six characters


def rows(teacher):
    return [
        json.loads(line)
        for file in sorted(recordings.FOLDER.glob(f"{recordings.TEACHERS[teacher]}*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def large():
    return [row for row in rows(recordings.LARGE) if "style" in row]


@pytest.mark.parametrize("teacher", recordings.TEACHERS)
def test_each_answers_the_prompt_it_was_made_for(teacher):
    for row in rows(teacher):
        if "style" in row:
            cell = (row["recipient"], row["scene"], row["style"])
            listed = cell[0] in MATRIX.recipients and cell[1] in MATRIX.scenes
            if listed and row["input"] == MATRIX.request(*cell):
                prompt = prompts.build(MATRIX, *cell, row["round"])
            else:
                prompt = prompts.build_asked(MATRIX, row["input"], row["round"])
            found = (recordings.digest(prompt.messages), prompt.seed)
            assert (row["prompt"], row["seed"]) == found, row["input"]


def test_the_small_teacher_has_a_round_and_the_large_one_two():
    for teacher, number in ((recordings.SMALL, 1), (recordings.LARGE, 1), (recordings.LARGE, 2)):
        known = recordings.load(teacher)
        for style in MATRIX.usual_styles:
            for prompt in prompts.build_round(MATRIX, style, number):
                assert (recordings.digest(prompt.messages), prompt.seed) in known, (teacher, prompt.where)


@pytest.mark.slow
def test_the_large_teacher_is_varied(large):
    texts = [row["text"] for row in large]
    bare = [re.sub(r"[\W_]+", "", emoji.strip(text)) for text in texts]
    for end in (slice(6), slice(-6, None)):
        ((most, count),) = Counter(text[end] for text in bare).most_common(1)
        assert count <= REPEATED * len(texts), most
    alike = duplicates.clusters(texts, 0.7)
    assert len(alike) == len(texts), [[texts[n] for n in group] for group in alike if len(group) > 1][:3]


def test_the_large_teacher_has_no_hard_faults_and_keeps_to_its_style(large):
    for row in large:
        request, text = MATRIX.read(row["input"]), row["text"]
        style = MATRIX.styles[row["style"]]
        assert not faults.find(request, text), (row["input"], text, faults.find(request, text))
        assert len(text) <= (request.max_chars or style.max_chars), (row["input"], text)
        assert style.min_emoji <= emoji.count(text) <= style.max_emoji, (row["input"], text)


@pytest.mark.parametrize(
    "line",
    [
        b"{not json",
        b"[]",
        b'{"model": "m", "date": "d", "prompt": "p", "seed": "1", "text": "x"}',
        b'{"model": "m", "date": "d", "prompt": "p", "seed": 1, "text": null}',
        b'{"model": "m", "date": "d", "prompt": "p", "text": "x"}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_recording_is_named_with_its_line(tmp_path, line):
    good = b'{"model": "m", "date": "d", "prompt": "p", "seed": 1, "text": "x"}'
    (tmp_path / "large.jsonl").write_bytes(good + b"\n" + line)
    with pytest.raises(CourseError, match=r"large\.jsonl 第 2 行.*git checkout"):
        recordings.load(recordings.LARGE, tmp_path)


def test_no_recordings_at_all_is_said(tmp_path):
    with pytest.raises(CourseError, match=r"recorded-small.*small\*\.jsonl"):
        recordings.load(recordings.SMALL, tmp_path)
