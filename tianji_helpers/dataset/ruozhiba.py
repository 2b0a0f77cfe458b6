"""弱智吧: COIG-CQIA records become OpenAI messages, then a training, a validation and a test file.

By default the file is cut in its order, and the first 70 % train, byte for byte as with the original
two scripts (the original loses a non-empty ``input``; here it follows the instruction). It has no
validation part: what we validate on is the first rows of its test, and without a file for them the other
half is the original's, too. A seed shuffles instead, whole groups of near-duplicate questions at a
time, so that no question stands in two parts.
"""

from pathlib import Path

from tianji_helpers import formats, records
from tianji_helpers.dataset import splits
from tianji_helpers.errors import CourseError

STAGE = "04_ruozhiba"

# of 3-grams; a question that is only worded a little differently has 0.4 to 0.9, two different ones of
# the 240 in COIG-CQIA at most 0.11
SAME_QUESTION = 0.5
VALIDATION_SHARE = 0.1


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
    fields = ("instruction", "output")
    if missing := [field for field in fields if row.get(field) is None]:
        raise CourseError(
            f"{where}：缺少字段 {'、'.join(missing)}，它的字段是 {formats.fields_of(row)}。"
            "请补上，或删掉这一条；整个文件是别的格式，就先运行 tianji convert 它 新文件.json --to alpaca。"
        )
    for field in ("system", "history"):
        if row.get(field):  # it would be lost
            raise CourseError(
                f"{where}：有字段 {field}，不是 COIG-CQIA 的记录。别的数据请用 tianji split 来分。"
            )
    for field in fields:
        if not records.check_text(row[field], field, where).strip():
            raise CourseError(
                f"{where}：字段 {field} 是空的；没有问题或没有答案的记录不能用来训练。请补上，或删掉这一条。"
            )
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
    rows: list[dict],
    ratio: float = 0.7,
    seed: int | None = None,
    threshold: float = SAME_QUESTION,
    *,
    validation: float = VALIDATION_SHARE,
) -> dict[str, list[dict]]:
    """Split message rows into ``{"train", "validation", "test"}``; see ``splits.split``.

    ratio: share of the rows that train, between 0 and 1; ``int(len(rows) * ratio)`` rows, or about as many
    where groups stay whole. validation: share of all rows, at least one; 0 is none. The rest is the test.
    seed: None keeps the order of the file (as the original does). threshold: from which similarity on two
    questions are near duplicates (see ``duplicates.similarity``).
    Raises CourseError if the ratio is out of range or a part would be empty.

    >>> rows = [{"messages": [{"role": "user", "content": f"问题{i}"}]} for i in "一二三四"]
    >>> [len(part) for part in split(rows, 0.5).values()]
    [2, 1, 1]
    """
    if not 0 < ratio < 1:
        raise CourseError(f"训练集比例是 {ratio}，应当在 0 和 1 之间（不含两端），例如 0.7。")
    if not 0 <= validation < 1:
        raise CourseError(f"验证集比例是 {validation}，应当在 0 和 1 之间（不含 1），例如 0.1。")
    size = int(len(rows) * ratio)
    validated = max(1, round(len(rows) * validation)) if validation else 0
    tested = len(rows) - size - validated
    if size < 1 or tested < 1:
        raise CourseError(
            f"{len(rows)} 条记录按训练 {ratio}、验证 {validation} 划分，训练集或测试集是空的；"
            "请换一个比例，或准备更多记录。"
        )
    questions = [row["messages"][0]["content"] for row in rows]
    groups = None if seed is None else splits.group(questions, "question", threshold=threshold)
    return splits.split(rows, groups, validation=validated, test=tested, seed=seed)


def convert_file(
    source: str | Path,
    train_path: str | Path,
    test_path: str | Path,
    *,
    validation_path: str | Path | None = None,
    format_path: str | Path | None = None,
    ratio: float = 0.7,
    validation: float = VALIDATION_SHARE,
    seed: int | None = None,
    threshold: float = SAME_QUESTION,
) -> dict[str, int]:
    """Convert a COIG-CQIA file and write its parts, with provenance: JSON Lines, or an array if named .json.

    validation_path: None makes two halves, as the original does. format_path: where to write all messages
    before the split, in the order of the source (what the original's first script leaves behind); None
    means nowhere.
    Returns the row counts: ``source``, ``train``, ``test``, and ``validation`` if there is one. The other
    parameters are those of ``split``.
    """
    targets = {"训练集": train_path, "验证集": validation_path, "测试集": test_path, "转换结果": format_path}
    files = {"原始文件": source} | {name: path for name, path in targets.items() if path}
    if len({Path(path).resolve() for path in files.values()}) < len(files):
        raise CourseError(
            f"{'、'.join(files)}里有两个是同一个文件（{'、'.join(map(str, files.values()))}）；"
            "请各用一个文件名。"
        )
    for path in filter(None, targets.values()):
        formats.check_name(path)
    rows = [to_messages(record) for record in read_source(source)]
    validation = validation if validation_path else 0
    parts = split(rows, ratio, seed, threshold, validation=validation)
    counts = {"source": len(rows)} | {part: len(chosen) for part, chosen in parts.items() if chosen}
    parameters = {"ratio": ratio, "validation": validation, "seed": seed, "threshold": threshold}
    for path, part in zip(targets.values(), (*parts.values(), rows), strict=True):
        if path:
            formats.write_rows(path, part)
            records.write_provenance(path, stage=STAGE, parameters=parameters, counts=counts, inputs=[source])
    return counts
