"""Questions and answers from texts: the reply's schema, the files, the same journal as the wishes."""

import json

import pytest
from phrasebook.dirt import JSON_KINDS
from phrasebook.server import PhrasebookTeacher
from synthesis_teachers import RecordingTeacher

from tianji_helpers import paths, records
from tianji_helpers.dataset.merge import merge_rounds
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import (
    preview_knowledge,
    providers,
    recordings,
    round_files,
    synthesize,
    synthesize_knowledge,
)
from tianji_helpers.synthesis.journal import Journal
from tianji_helpers.synthesis.knowledge import parse

TEXTS = paths.DATA / "knowledge"
PAIR = {"question": "中秋节在哪一天？", "answer": "农历八月十五。"}
GOOD = json.dumps({"qa": [PAIR]}, ensure_ascii=False)


def run(folder, texts=TEXTS, **options):
    options = {"size": 200, "overlap": 60} | options
    return synthesize_knowledge(texts, output_dir=folder, progress=False, **options)


def rows_of(summary):
    return [row for file in summary.files for row in records.read_conversations(file, records.RAW_FIELDS)]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"好的，题目如下：\n{GOOD}\n希望有帮助",
        GOOD[:-2] + ",]}",
        GOOD[:-2],
        json.dumps([PAIR], ensure_ascii=False),
        json.dumps(PAIR, ensure_ascii=False),
        json.dumps({"qa": [PAIR | {"difficulty": 1}]}),
        GOOD[:-2] + ', {"question": "中秋',
    ],
)
def test_what_a_model_adds_is_mended(text):
    assert parse(text) == ([PAIR], [])


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"question": "几时？"}, "answer 不是非空文字"),
        ({"question": " ", "answer": "今天"}, "question 不是非空文字"),
        ({"question": "几时？", "answer": ["今天"]}, "answer 不是非空文字"),
        ({"question": "问" * 201, "answer": "答"}, "question 有 201 个字，最多 200"),
    ],
)
def test_a_bad_pair_is_kept_apart_with_its_reason(pair, reason):
    good, bad = parse(json.dumps({"qa": [PAIR, pair]}, ensure_ascii=False))
    assert good == [PAIR] and bad == [{"pair": pair, "reason": reason}]
    with pytest.raises(ValueError, match=reason):
        parse(json.dumps({"qa": [pair]}))


@pytest.mark.parametrize(
    "text", ["", "好的，我来出题。", "{", "[1, 2]", '{"qa": 3}', '{"qa": []}', "{" * 5000]
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match="不是要求的 JSON"):
        parse(text)


def test_the_offline_teacher_fills_the_contract(tmp_path):
    summary = run(tmp_path)
    assert summary.answered == summary.prompts == 5 and not summary.failures
    (file,) = summary.files
    assert file.parent.name == "qa" and file.name.startswith("wishes_知识问答_")
    assert round_files(tmp_path) == []  # the wishes' own folder stays clean
    rows = rows_of(summary)
    assert len(rows) == summary.pairs > 10
    assert len({row["input"] for row in rows}) == len(rows)
    for row in rows:
        assert row["source"] == "chunjie.txt"
        assert row["style_name"] == "知识问答" and row["provider"] == "offline"
    rejects = records.read_jsonl(file.with_name(f"{file.stem}_rejects.jsonl"))
    assert len(rejects) == summary.rejected and all(reject["reason"] for reject in rejects)
    assert records.read_json(records.provenance_path(file))["counts"]["rows"] == len(rows)


def test_what_somebody_changed_is_kept_when_a_run_writes_it_again(tmp_path, capsys):
    summary = run(tmp_path / "a" / "b")
    (file,) = summary.files
    rejects = file.with_name(f"{file.stem}_rejects.jsonl")
    assert len(merge_rounds(file.parent, tmp_path / "merged.json").files) == 1  # the rejects are no round
    run(tmp_path / "a" / "b")
    assert not list(file.parent.glob("*.kept-*"))
    for mine in (file, rejects):
        mine.write_text("mine")
    run(tmp_path / "a" / "b")
    for mine in (file, rejects):
        assert mine.with_name(f"{mine.name}.kept-1").read_text() == "mine" != mine.read_text()
    assert f"留作 {rejects.name}.kept-1" in capsys.readouterr().out


def test_all_dirt_of_the_teacher_is_mended(tmp_path):
    with PhrasebookTeacher(dirt_share=1.0) as teacher:
        summary = run(tmp_path, base_url=teacher.base_url, rounds=3)
    assert not summary.failures and summary.sent == summary.prompts
    assert summary.rejected > 0  # the half pairs and the repeated questions
    assert len(JSON_KINDS) == 5


def test_running_again_sends_nothing_and_shares_the_journal(tmp_path):
    with RecordingTeacher(dirt_share=0.0) as teacher:
        synthesize(styles=["正常"], limit=5, output_dir=tmp_path, base_url=teacher.base_url, progress=False)
        first = run(tmp_path, base_url=teacher.base_url)
        before = first.files[0].read_bytes()
        again = run(tmp_path, base_url=teacher.base_url)
        assert (again.sent, again.reused) == (0, first.prompts) and again.files == first.files
        assert again.files[0].read_bytes() == before
        assert {body["max_tokens"] for body in teacher.bodies} == {512, 2048}


def test_a_reply_that_is_no_json_is_asked_for_again_under_another_seed(tmp_path):
    with RecordingTeacher(dirt_share=0.0) as teacher:

        def answer(body):
            status, headers, payload = RecordingTeacher.reply(teacher, body)
            if len(teacher.bodies) % 2:
                payload["choices"][0]["message"]["content"] = '{"qa": [{"question": "为什么'
            return status, headers, payload

        teacher.reply = answer
        summary = run(tmp_path, base_url=teacher.base_url, concurrency=1, limit=3)
        assert summary.answered == 3 and summary.sent == 6 and not summary.failures
        first, second = (body["seed"] for body in teacher.bodies[:2])
        assert second == first + 1
        assert rows_of(summary)[0]["seed"] == second


@pytest.mark.parametrize("name", providers.PROVIDERS)
def test_a_server_that_keeps_schemas_is_given_that_of_the_answer(tmp_path, teacher, monkeypatch, name):
    for key_name in ("DEEPSEEK_API_KEY", "ZHIPUAI_API_KEY"):
        monkeypatch.setenv(key_name, "sk-0123456789.secretsecret")
    asked = {"provider": name, "model": recordings.LARGE, "base_url": teacher.base_url}
    assert run(tmp_path, **asked, pairs=2, limit=1).answered == 1
    synthesize(**asked, styles=["正常"], limit=1, output_dir=tmp_path, progress=False)
    questions, wish = (body.get("response_format") for body in teacher.bodies)
    assert wish is None, "a wish is no JSON"
    if name != "embedded":
        assert questions is None
        return
    pair = {
        "type": "object",
        "properties": {
            "question": {"type": "string", "minLength": 2, "maxLength": 200},
            "answer": {"type": "string", "minLength": 2, "maxLength": 2000},
        },
        "required": ["question", "answer"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"qa": {"type": "array", "items": pair, "minItems": 2, "maxItems": 2}},
        "required": ["qa"],
        "additionalProperties": False,
    }
    assert questions == {"type": "json_schema", "json_schema": {"schema": schema}}


def test_answers_of_another_shape_in_a_journal_do_not_stop_the_rest(tmp_path):
    with RecordingTeacher(dirt_share=0.0) as teacher:
        first = run(tmp_path, base_url=teacher.base_url, limit=3)
        with Journal(tmp_path / "01_synthesis" / "journal.sqlite") as journal:
            ((request,),) = journal._base.execute("SELECT request FROM answers LIMIT 1").fetchall()
            journal._base.execute("DELETE FROM answers WHERE request = ?", [request])
            journal.add([(request, {"text": "我出不了题。"})])
        again = run(tmp_path, base_url=teacher.base_url, limit=3)
    assert again.reused == 3 and 0 < again.pairs < first.pairs
    (file,) = again.files
    (reject,) = [
        row for row in records.read_jsonl(file.with_name(f"{file.stem}_rejects.jsonl")) if "pair" not in row
    ]
    assert "不是要求的 JSON" in reject["reason"]


def test_a_preview_sends_nothing(tmp_path):
    plan, questions = preview_knowledge(TEXTS, output_dir=tmp_path / "never", pairs=2, rounds=2)
    assert plan.prompts == len(questions) == plan.prompts - plan.reused and plan.prompt_tokens > 100
    assert "出 2 道问答题" in questions[0].text
    assert not (tmp_path / "never").exists()


def test_texts_are_found_by_name_in_sub_folders(tmp_path):
    texts = tmp_path / "texts"
    (texts / "b").mkdir(parents=True)
    (texts / "b" / "two.MD").write_text("端午节在农历五月初五，要吃粽子。", encoding="utf-8")
    (texts / "one.txt").write_text("\ufeff中秋节在农历八月十五，要赏月。", encoding="utf-8")
    (texts / "photo.jpg").write_bytes(b"\xff\xd8")
    with PhrasebookTeacher(dirt_share=0.0) as teacher:
        summary = run(tmp_path / "out", texts, pairs=1, base_url=teacher.base_url)
    assert [(row["source"], row["input"]) for row in rows_of(summary)] == [
        ("b/two.MD", "端午节在什么时候？"),
        ("one.txt", "中秋节在什么时候？"),
    ]


def _excel(folder):
    (folder / "a.xlsx").write_bytes(b"PK")
    return folder / "a.xlsx"


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda folder: folder / "no", {}, "找不到"),
        (lambda folder: folder, {}, r"里没有 \.txt 或 \.md 文件.*另存为"),
        (_excel, {}, r"a\.xlsx 不是 \.txt 或 \.md 文件.*另存为 UTF-8 的 \.txt.*tianji convert"),
        (lambda folder: (folder / "a.txt").write_text(" \n") and folder, {}, "都是空的"),
        (lambda folder: TEXTS, {"pairs": 0}, "pairs=0"),
        (lambda folder: TEXTS, {"overlap": 400}, "overlap=400"),
        (lambda folder: TEXTS, {"rounds": 0}, "rounds=0"),
    ],
)
def test_bad_input_is_named_before_anything_happens(tmp_path, make, options, words):
    with pytest.raises(CourseError, match=words):
        run(tmp_path / "never", make(tmp_path), **options)
    assert not (tmp_path / "never").exists()
