"""The story of a request comes back in its wish: wishes that were written for it, and for others."""

import json
import random

import pytest

from tianji_helpers import details, paths, wishes

MATRIX = wishes.load()
FILE = paths.DATA / "wishes" / "answers" / "large_requests.jsonl"


def test_wishes_written_for_a_story_take_it_up_and_others_do_not():
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    asked = [MATRIX.read(row["input"]) for row in rows]
    own = [details.kept(request, row["text"]) for request, row in zip(asked, rows, strict=True)]
    random.Random(0).shuffle(rows)
    others = [details.kept(request, row["text"]) for request, row in zip(asked, rows, strict=True)]
    assert own.count(True) / len(own) > 0.95 and others.count(True) / len(others) < 0.05


@pytest.mark.parametrize(
    ("request_text", "wish", "expected"),
    [
        ("祝姐姐生日快乐", "姐姐，生日快乐！", None),
        ("祝姐姐生日快乐,她她她", "姐姐，生日快乐！", None),
        ("祝姐姐生日快乐,姐姐的生日", "姐姐，生日快乐！", None),
        ("祝哥哥升职,他在google写python", "哥哥，Python 写得好，升职是应该的。", True),
        ("祝哥哥升职,他在google写python", "哥哥，恭喜升职。", False),
        ("祝奶奶春节快乐,她最爱听评剧", "", False),
    ],
)
def test_what_counts_as_taken_up(request_text, wish, expected):
    assert details.kept(MATRIX.read(request_text), wish) is expected
