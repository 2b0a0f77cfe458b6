"""弱智吧: COIG-CQIA records become OpenAI messages, then a training and a test file.

With the defaults the bytes are those of the original two scripts: one message pair a line, the
first 70 % of the lines for training, the rest for the test (the original loses a non-empty ``input``;
here it follows the instruction). A seed shuffles instead, whole groups of near-duplicate questions at
a time, so that no question stands on both sides.
"""

import random
from pathlib import Path

from tianji_helpers import formats, records
from tianji_helpers.dataset import duplicates
from tianji_helpers.errors import CourseError

STAGE = "04_ruozhiba"

# of 3-grams; a question that is only worded a little differently has 0.4 to 0.9, two different ones of
# the 240 in COIG-CQIA at most 0.11
SAME_QUESTION = 0.5


def read_source(path: str | Path) -> list[dict]:
    """Return the records of a COIG-CQIA file: ``instruction``, ``output`` and perhaps ``input`` are text.

    The file is JSON Lines or one JSON array; a byte order mark, blank lines and CRLF do no harm. A
    missing ``input``, or one that is null, counts as empty.
    Raises CourseError naming file, line (or row of an array) and field.
    """
    rows = [_checked(row, where) for where, row in formats.iter_rows(path)]
    if not rows:
        raise CourseError(f"{path} 里没有一条记录。请检查是不是下载了空文件。")
    return rows


def _checked(row: dict, where: str) -> dict:
    records.check_row(row, where)
    for field in ("instruction", "output"):
        if not records.check_text(row.get(field), field, where).strip():
            raise CourseError(f"{where}：字段 {field} 是空的；没有问题或没有答案的记录不能用来训练。")
    if row.get("input") is not None:
        records.check_text(row["input"], "input", where)
    return row


def to_messages(record: dict) -> dict:
    """Return one COIG-CQIA record as OpenAI messages.

    The question is the instruction; a non-empty ``input`` follows on a new line.

    >>> to_messages({"instruction": "1+1=?", "input": "", "output": "2"})["messages"][0]
    {'role': 'user', 'content': '1+1=?'}
    """
    question = record["instruction"]
    if (record.get("input") or "").strip():
        question += "\n" + record["input"]
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": record["output"]},
        ]
    }


def split(
    rows: list[dict], ratio: float = 0.7, seed: int | None = None, threshold: float = SAME_QUESTION
) -> tuple[list[dict], list[dict]]:
    """Split message rows into (train, test).

    ratio: share of the rows that train, between 0 and 1; ``int(len(rows) * ratio)`` rows.
    seed: None keeps the order of the file (as the original does). A number shuffles; near-duplicate
    questions then stay on one side, so that a group may move the border by a few rows. threshold: from
    which similarity on two questions are near duplicates (see ``duplicates.similarity``).
    Raises CourseError if the ratio is out of range or one side would be empty.

    >>> rows = [{"messages": [{"role": "user", "content": f"问题{i}"}]} for i in "一二三四"]
    >>> [len(part) for part in split(rows, 0.5)]
    [2, 2]
    """
    if not 0 < ratio < 1:
        raise CourseError(f"训练集比例是 {ratio}，应当在 0 和 1 之间（不含两端），例如 0.7。")
    size = int(len(rows) * ratio)
    if not 0 < size < len(rows):
        raise CourseError(f"{len(rows)} 条记录按 {ratio} 划分，有一边是空的；请换一个比例，或准备更多记录。")
    if seed is None:
        return rows[:size], rows[size:]
    groups = duplicates.clusters((row["messages"][0]["content"] for row in rows), threshold)
    random.Random(seed).shuffle(groups)
    train: list[dict] = []
    test: list[dict] = []
    for group in groups:
        side = train if len(train) < size else test
        side += [rows[position] for position in group]
    if not test:
        raise CourseError("几乎所有问题都互相重复，留不出测试集；请先去重，或准备更多记录。")
    return train, test


def convert_file(
    source: str | Path,
    train_path: str | Path,
    test_path: str | Path,
    *,
    format_path: str | Path | None = None,
    ratio: float = 0.7,
    seed: int | None = None,
    threshold: float = SAME_QUESTION,
) -> dict[str, int]:
    """Convert a COIG-CQIA file and write its two halves as JSONL, with provenance.

    format_path: where to write all messages before the split, in the order of the source (what the
    original's first script leaves behind); None means nowhere.
    Returns the row counts ``{"source", "train", "test"}``. See ``split`` for ratio, seed, threshold.
    """
    files = [Path(path).resolve() for path in (source, train_path, test_path, format_path) if path]
    if len(set(files)) < len(files):
        raise CourseError(
            f"原始文件、训练集、测试集和转换结果里有两个是同一个文件（{source}、{train_path}、{test_path}"
            f"{f'、{format_path}' if format_path else ''}）；请各用一个文件名。"
        )
    rows = [to_messages(record) for record in read_source(source)]
    train, test = split(rows, ratio, seed, threshold)
    counts = {"source": len(rows), "train": len(train), "test": len(test)}
    parameters = {"ratio": ratio, "seed": seed, "threshold": threshold}
    targets = [(train_path, train), (test_path, test)]
    if format_path:
        targets.append((format_path, rows))
    for path, part in targets:
        records.write_jsonl(path, part)
        records.write_provenance(path, stage=STAGE, parameters=parameters, counts=counts, inputs=[source])
    return counts
