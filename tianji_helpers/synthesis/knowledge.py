"""From texts to questions and answers: the same client, another kind of request.

A text is cut into chunks; a teacher is asked for some pairs of question and answer about each, as JSON
``{"qa": [{"question", "answer"}]}``. What a model often adds (a fence, a preamble, a comma too many, a cut
end) is mended, a reply without one good pair is asked for again, and a bad pair beside good ones is kept
among the rejects with its reason. The files follow the contract of the raw rounds, in a folder of their own
(``01_synthesis/qa``), so that they don't get among the wishes unasked.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import rounds as round_store
from tianji_helpers.synthesis.chunks import Chunk, cut
from tianji_helpers.synthesis.client import CostEstimate, Engine, Settings, Summary, estimate, started
from tianji_helpers.synthesis.generate import check_amounts

STYLE = "知识问答"
SYSTEM = "你是一位知识助手，请准确、完整地回答问题。"  # of the training rows
_ASKER = "你是一位出题老师，只根据给你的资料出题，不编造资料里没有的内容。"
_SUFFIXES = (".txt", ".md")
_PAIR_CHARS = 120  # about how long a pair is, JSON included
_MAX_TOKENS = 2048  # of an answer; a wish's limit would cut the JSON
_MOST_CHARS = {"question": 200, "answer": 2000}


@dataclass(frozen=True)
class ChunkPrompt:
    """One request: ``pairs`` questions about a chunk."""

    chunk: Chunk
    pairs: int
    round: int
    seed: int

    @property
    def where(self) -> str:
        """The request's name in a message."""
        return f"{self.chunk.source} 第 {self.chunk.number} 段，第 {self.round} 轮"

    @property
    def answer_chars(self) -> int:
        """About how long the answer will be."""
        return self.pairs * _PAIR_CHARS

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer."""
        fields = {
            name: {"type": "string", "minLength": 2, "maxLength": most} for name, most in _MOST_CHARS.items()
        }
        several = {"type": "array", "items": _only(fields), "minItems": self.pairs, "maxItems": self.pairs}
        return _only({"qa": several})

    @property
    def text(self) -> str:
        """The user message (``src_input``)."""
        return (
            f"请根据下面的资料出 {self.pairs} 道问答题。\n"
            "每道题都要能单独看懂，不要说“上文”“这段资料”；答案要完整，而且只用资料里的内容。\n"
            '只回答一个 JSON 对象，不要别的话：{"qa": [{"question": "问题", "answer": "答案"}]}\n'
            f"资料来源：{self.chunk.source}\n"
            f"资料：\n{self.chunk.text}"
        )

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat messages."""
        return [{"role": "system", "content": _ASKER}, {"role": "user", "content": self.text}]


def _only(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with these fields, all of them, and no others."""
    names = list(fields)
    return {"type": "object", "properties": fields, "required": names, "additionalProperties": False}


@dataclass
class KnowledgeSummary(Summary):
    """See ``Summary``; ``pairs``: questions in the files, ``rejected``: pairs that were not good."""

    pairs: int = 0
    rejected: int = 0

    def __str__(self) -> str:
        return f"{super().__str__()}\n得到问答 {self.pairs} 对，弃用 {self.rejected} 对。"


def parse(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the good pairs of a reply, and the rejected ones, each with its ``reason``.

    Raises ValueError if there is no good pair.

    >>> parse('好的：```json\\n{"qa": [{"question": "几时？", "answer": "八月十五。"},]}```')[0]
    [{'question': '几时？', 'answer': '八月十五。'}]
    """
    good: list[dict[str, str]] = []
    bad: list[dict[str, Any]] = []
    for item in _objects(text):
        reason = _fault(item)
        if reason:
            bad.append({"pair": item, "reason": reason})
        else:
            good.append({field: item[field].strip() for field in _MOST_CHARS})
    if not good:
        reasons = "；".join(item["reason"] for item in bad) or "里面没有 question 和 answer"
        raise ValueError(f"回答不是要求的 JSON（{reasons}）：{text.strip()[:40]}")
    return good, bad


def preview_knowledge(
    folder: str | Path, provider: str = "offline", *, output_dir: str | Path = "", **work: Any
) -> tuple[CostEstimate, list[ChunkPrompt]]:
    """Return what ``synthesize_knowledge`` would send and cost, and its requests; nothing is sent."""
    settings, plan = _plan(folder, provider, **work)
    return estimate(settings, plan, output_dir), plan


def synthesize_knowledge(
    folder: str | Path,
    provider: str = "offline",
    pairs: int = 3,
    rounds: int = 1,
    seed: int = 42,
    output_dir: str | Path = "",
    limit: int | None = None,
    size: int = 400,
    overlap: int = 80,
    **options: Any,
) -> KnowledgeSummary:
    """Ask for questions and answers about all texts of a folder; write one file a round.

    folder: of .txt and .md files (in sub-folders too), or one such file. pairs: asked for a chunk. size,
    overlap: of the chunks, in characters (see ``chunks``). limit: chunks, from the beginning; None or 0 is
    all. The rest, and the errors, as for ``synthesize``; and CourseError if there is no text.
    """
    work: dict[str, Any] = {
        "pairs": pairs,
        "rounds": rounds,
        "seed": seed,
        "limit": limit,
        "size": size,
        "overlap": overlap,
    }
    settings, plan = _plan(folder, provider, **work, **options)
    with started(settings, output_dir) as engine:
        engine.summary = summary = KnowledgeSummary(price=engine.summary.price)
        try:
            engine.run(plan, len(plan), "生成问答", parse)
        finally:  # whatever stopped the run, what is answered goes into the files
            for number in range(1, rounds + 1):
                asked = [question for question in plan if question.round == number]
                _write_round(engine, asked, {"round": number, "seed": seed}, _files(folder))
        return summary


def read_chunks(folder: str | Path, size: int, overlap: int, limit: int | None = None) -> list[Chunk]:
    """Return the chunks of all texts of a folder (or of one file), in the order of their names."""
    try:
        base = Path(folder) if Path(folder).is_dir() else Path(folder).parent
        found = [
            chunk
            for file in _files(folder)
            for chunk in cut(records.read_text(file), file.relative_to(base).as_posix(), size, overlap)
        ]
    except ValueError as error:
        raise CourseError(f"{error}。") from None
    if not found:
        raise CourseError(f"{folder} 里的文本都是空的。")
    return found[: limit or None]


def _files(folder: str | Path) -> list[Path]:
    folder = Path(folder)
    if not folder.exists():
        raise CourseError(f"找不到 {folder}。请给出装着文本的文件夹，或一个文本文件。")
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    files = [file for file in files if file.is_file() and file.suffix.lower() in _SUFFIXES]
    if not files:
        raise CourseError(
            f"{folder} {'不是' if folder.is_file() else '里没有'} {' 或 '.join(_SUFFIXES)} 文件。"
            "请把要出题的文字另存为 UTF-8 的 .txt；已经是问答的表格，就另存为 CSV，再用 tianji convert 转换。"
        )
    return files


def _plan(
    folder: str | Path,
    provider: str,
    pairs: int = 3,
    rounds: int = 1,
    seed: int = 42,
    limit: int | None = None,
    size: int = 400,
    overlap: int = 80,
    **options: Any,
) -> tuple[Settings, list[ChunkPrompt]]:
    settings = Settings(provider, **{"max_tokens": _MAX_TOKENS} | options)
    found = read_chunks(folder, size, overlap, limit)
    check_amounts(rounds, None)
    if type(pairs) is not int or not 1 <= pairs <= 20:
        raise CourseError(f"pairs={pairs!r}，应当是 1 到 20 之间的整数。")
    plan = []
    for number in range(1, rounds + 1):
        for chunk in found:
            rng = random.Random(f"{seed}/{number}/{chunk.source}/{chunk.number}")
            plan.append(ChunkPrompt(chunk, pairs, number, rng.getrandbits(31)))
    return settings, plan


def _write_round(
    engine: Engine, asked: list[ChunkPrompt], identity: dict[str, Any], files: list[Path]
) -> None:
    """Write the round's pairs and rejects; a question that was asked before is a reject."""
    rejects: list[dict[str, Any]] = []
    folder = engine.folder / "qa"
    texts = {"pairs": asked[0].pairs, "sources": [records.sha256(file) for file in files]}
    file = round_store.write(
        folder,
        engine.journal,
        STYLE,
        identity={"style": STYLE, **identity, **texts, **engine.identity()},
        rows=_rows(engine, asked, rejects),
        counts={"chunks": len(asked)},
        inputs=files,
    )
    if file is None:
        return
    beside = file.with_name(f"{file.stem}_rejects.jsonl")
    with records.make_way(beside):
        records.write_jsonl(beside, rejects)
    records.write_provenance(beside, stage="01_synthesis", parameters={}, counts={"rejects": len(rejects)})
    engine.summary.files.append(file)
    summary = engine.summary
    assert isinstance(summary, KnowledgeSummary)
    summary.rejected += len(rejects)
    summary.pairs += sum(1 for _ in records.iter_json_array(file))


def _rows(
    engine: Engine, asked: list[ChunkPrompt], rejects: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    seen = set()
    for question in asked:
        answer = engine.answer(question)
        if answer is None:
            continue
        place = {"source": question.chunk.source, "chunk": question.chunk.number}
        try:
            good, bad = parse(answer["text"])
        except ValueError as error:  # the journal may come from somebody else
            rejects.append(place | {"reason": str(error)})
            continue
        for pair in good:
            if pair["question"] in seen:
                bad.append({"pair": pair, "reason": "问题和前面的重复"})
                continue
            seen.add(pair["question"])
            yield {
                "system": SYSTEM,
                "src_input": question.text,
                "style_name": STYLE,
                "input": pair["question"],
                "output": pair["answer"],
                **place,
                **engine.provenance(question, answer),
            }
        rejects.extend(place | item for item in bad)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the innermost objects of a reply, as many as are whole."""
    text = re.sub(r",(\s*[}\]])", r"\1", text)  # a comma too many
    decoder, start = json.JSONDecoder(), 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1  # the outer object is broken: perhaps the inner ones are not
            continue
        items = value.get("qa", [value])
        yield from (item for item in items if isinstance(item, dict)) if isinstance(items, list) else ()
        start = end


def _fault(item: dict[str, Any]) -> str:
    """Return what is wrong with a pair, or an empty string."""
    for field, most in _MOST_CHARS.items():
        value = item.get(field)
        if not isinstance(value, str) or not value.strip():
            return f"{field} 不是非空文字"
        if len(value) > most:
            return f"{field} 有 {len(value)} 个字，最多 {most}"
    return ""
