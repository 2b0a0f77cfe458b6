"""Bad input, everywhere: a clear CourseError or a good result, and a target that is old or whole."""

import contextlib
import gc
import json
import os
import resource
import shutil
import string
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji_helpers import formats, paths, records, tables, wishes
from tianji_helpers.dataset import clean, merge, rules, ruozhiba, self_cognition, splits
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prices
from tianji_helpers.training import data, evaluation

pytestmark = pytest.mark.slow

MATRIX = wishes.load()
WISH = "姐姐，祝你生日快乐，愿你天天开心，事事顺心！"
TURN = {"system": MATRIX.system, "input": "祝姐姐生日", "output": WISH}
ROUND = {"src_input": "请写……", "style_name": "正常"} | TURN
HUGE = "长" * (10 << 20 >> 1)  # more than 10 MB of UTF-8

# --- every reader, given a path ---------------------------------------------------------------------


def _merge(path: Path):
    folder = path.parent / "rounds"
    folder.mkdir(exist_ok=True)
    target = folder / "round.json"
    if path.is_dir():
        target.mkdir()
    else:
        shutil.copy(path, target)
    return merge.merge_rounds(folder, path.parent / "out.json")


def _clean(path: Path):
    output, rejects, report = (path.parent / name for name in ("out.json", "rejects.jsonl", "report.json"))
    return clean.clean_file(path, output, rejects=rejects, report=report, matrix=MATRIX)


def _to_openai(path: Path):
    return formats.convert_file(path, path.parent / "messages.jsonl", "openai")


def _load(path: Path):
    return data.load_rows({"train": path})


def _leakage(path: Path):
    return splits.file_leakage(path, path)


def _convert(path: Path):
    return ruozhiba.convert_file(path, path.parent / "train.jsonl", path.parent / "test.jsonl")


def _split(path: Path):
    return splits.write_split(path, matrix=MATRIX)


def _matrix(path: Path, name: str):
    folder = path.parent / "wishes"
    shutil.copytree(paths.DATA / "wishes", folder)
    (folder / name).unlink()
    shutil.move(path, folder / name)
    return wishes.load(folder)


JSON_READERS = {
    "read_json": records.read_json,
    "iter_json_array": lambda path: list(records.iter_json_array(path)),
    "read_conversations": records.read_conversations,
    "merge": _merge,
    "clean": _clean,
    "split": _split,
    "training rows": _load,
    "turns": evaluation.read_turns,
    "ruozhiba": ruozhiba.read_source,
    "formats": _to_openai,
    "leakage": _leakage,
}
LINE_READERS = {
    "read_jsonl": records.read_jsonl,
    "ruozhiba lines": ruozhiba.read_source,
    "convert": _convert,
    "training messages": _load,
    "message turns": evaluation.read_turns,
}
YAML_READERS = {
    "read_yaml": tables.read_yaml,
    "self-cognition": self_cognition.load,
    "general": self_cognition.load_general,
    "prices": partial(prices.find, "deepseek", "deepseek-chat"),
    **{
        name: partial(_matrix, name=f"{name}.yaml")
        for name in ("recipients", "scenes", "styles", "requirements", "suitability")
    },
}
SUFFIX = dict.fromkeys(JSON_READERS, ".json") | dict.fromkeys(LINE_READERS, ".jsonl")
SUFFIX |= dict.fromkeys(YAML_READERS, ".yaml")
READERS = JSON_READERS | LINE_READERS | YAML_READERS


def outcome(read, path: Path):
    """Read; return what came, or the CourseError. Anything else that is raised fails the test."""
    try:
        return read(path)
    except CourseError as error:
        assert any("\u4e00" <= character <= "\u9fff" for character in str(error)), error
        assert len(str(error)) < 2_000, "a message that nobody reads"
        return error


def names(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir()]


@pytest.fixture(scope="module", autouse=True)
def no_finalizers():
    """Keep what earlier tests left from being collected, and failing, at the bottom of a deep nesting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def litter(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


BROKEN = {
    "empty": b"",
    "blank": b" \r\n\t\n",
    "byte order mark": b"\xef\xbb\xbf",
    "not utf-8": "祝福".encode("gb18030"),
    "utf-16": "[]".encode("utf-16"),
    "nul": b"\x00" * 64,
    "cut off": b'[{"conversation": [{"system": "s", "inp',
    "deep array": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "deep in a row": b'[{"conversation": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
    "deep dashes": b"- " * 50_000 + b"a",
    "nan": b"[NaN]",
    "nan in a row": b'{"instruction": "a", "input": "", "output": "b", "score": NaN}\n',
    "infinity": b'[{"a": -Infinity}]',
    "long integer": b"[" + b"1" * 5_000 + b"]",
    "long integer in a row": b'{"a": ' + b"1" * 5_000 + b"}",
    "yaml date": b"a: 2026-13-45",
    "yaml list as key": b"? [a]\n: b",
    "yaml tag": b"a: !!python/object/apply:os.getcwd []",
    "yaml bad int": b"a: !!int x",
    "yaml bad bool": b"a: !!bool x",
    "yaml bad timestamp": b"a: !!timestamp x",
    "yaml empty int": b"a: !!int ''",
    "yaml long time": b"a: " + b"59:" * 5_000 + b"59.5",
    "yaml in itself": b"&a [*a]",
    "yaml in itself as a map": b"a: &a {title: *a, questions: *a}",
    "yaml twice": b"a: 1\na: 2",
    "yaml bombs": b"a: &a [x, x, x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (n + 1, n + 1, n, n, n, n) for n in range(97, 110)),
}
ANY_VALUE = {"read_json", "read_yaml", "prices"}  # prices: a model that the table does not know has none
NO_ROWS = {"read_jsonl", "message turns"}  # no rows are rows


@pytest.mark.parametrize("name", READERS)
def test_broken_files(name, tmp_path):
    for number, (kind, content) in enumerate(BROKEN.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"bad{SUFFIX[name]}"
        path.write_bytes(content)
        result = outcome(READERS[name], path)
        harmless = name in ANY_VALUE or (name, kind) == ("requirements", "nan")  # to YAML it is a word
        harmless |= name in NO_ROWS and kind in ("blank", "empty", "byte order mark")
        assert harmless or isinstance(result, CourseError), (kind, result)
        assert not litter(folder)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_or_nothing_where_a_file_should_be(name, tmp_path):
    path = tmp_path / "folder" / f"bad{SUFFIX[name]}"
    path.mkdir(parents=True)
    assert isinstance(outcome(READERS[name], path), CourseError)
    if name in ("read_json", "read_jsonl", "read_yaml"):
        assert isinstance(outcome(READERS[name], tmp_path / "absent"), CourseError)
        assert isinstance(outcome(READERS[name], tmp_path / ("长" * 300)), CourseError)


def test_aliases_are_written_out_only_so_far(tmp_path):
    """A few lines of them can stand for thousands of millions of values, or for one without an end."""
    path = tmp_path / "a.yaml"
    path.write_text("a: &a [甲, 乙]\nb: {c: *a, d: [*a]}", encoding="utf-8")
    assert tables.read_yaml(path) == {"a": ["甲", "乙"], "b": {"c": ["甲", "乙"], "d": [["甲", "乙"]]}}
    chain = "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 99))
    for content, words in (
        (BROKEN["yaml bombs"].decode(), "展开以后超过 1,000,000 个值"),
        ("&a [*a]", "包含它自己"),
        ("a: &a {b: [{c: *a}]}", "包含它自己"),
        (f"a0: &a0 [x]\n{chain}", "嵌套超过 50 层"),
        ("a: *nobody", "不是合法的 YAML"),
    ):
        path.write_text(content)
        with pytest.raises(CourseError, match=words):
            tables.read_yaml(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("520", "520（没有加引号，被 YAML 读成了数"),
        ("3.14", "被 YAML 读成了数"),
        ("yes", "没有加引号的 yes"),
        ("2026-12-25", "被 YAML 读成了日期"),
        ("~", "没有加引号的 null"),
    ],
)
def test_a_word_that_yaml_takes_for_something_else_is_named(value, words, tmp_path):
    for name, old, new in (
        ("scenes", "生日:\n", f"{value}:\n"),
        ("recipients", "address: [李总]", f"address: [{value}]"),
        ("styles", "template: 日常、礼貌、真诚，像平时说话一样自然，不用 emoji。", f"template: {value}"),
    ):
        text = (paths.DATA / "wishes" / f"{name}.yaml").read_text(encoding="utf-8")
        assert old in text
        (tmp_path / name).mkdir()
        path = tmp_path / name / "any.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(CourseError) as caught:
            READERS[name](path)
        assert words in str(caught.value), name


def test_a_file_of_another_kind_is_called_by_its_name(tmp_path):
    def archive(member):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(member, "x")
        return (tmp_path / "a.zip").read_bytes()

    for content, words in (
        (archive("xl/workbook.xml"), "Excel 表格.*另存为“CSV UTF-8”"),
        (archive("word/document.xml"), "Word"),
        (archive("data.json"), "unzip"),
        (archive("xl/workbook.xml")[:40] + b"\xff", "没有下载完整"),
        (b"\x89PNG\r\n\x1a\n", "图片"),
        (rb"{\rtf1\ansi [{}]}", "RTF.*纯文本"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "旧版 Excel"),
        (b"ARROW1\0\0" + b"\xff" * 9, "Arrow"),
        (b"BZh9" + b"\xff" * 9, "bunzip2"),
        (b"\x7fELF\0\xff\xff", "不是文本"),
        ("问,答\n甲,乙\n".encode("gb18030"), "GBK.*iconv"),
        ("问,答\n甲,乙\n".encode("utf-16"), "UTF-16.*iconv"),
        (b"<!DOCTYPE html>\n<html>404</html>", "是一个网页"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ):
        (tmp_path / "rows.json").write_bytes(content)
        for read in (_to_openai, _clean, _load):
            with pytest.raises(CourseError, match=words):
                read(tmp_path / "rows.json")


# --- any JSON value where a row is expected ---------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
WORDS = st.sampled_from([WISH, "祝姐姐生日", "", " ", "{owner}", "{0}", "{owner.x}", "正常", "您", "elder"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**400, max_value=10**401)
    | st.floats()
    | ANY_TEXT
    | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(ANY_TEXT, inner, max_size=3)
        | st.fixed_dictionaries({"conversation": st.lists(inner, max_size=2) | inner})
        | st.fixed_dictionaries({"messages": st.lists(inner, max_size=2) | inner})
        | st.fixed_dictionaries(dict.fromkeys(("system", "input", "output"), inner))
        | st.fixed_dictionaries(dict.fromkeys(("role", "content"), inner))
        | st.fixed_dictionaries(dict.fromkeys(("instruction", "input", "output"), inner))
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("name", JSON_READERS)
@settings(max_examples=25)
@given(rows=st.lists(VALUES, max_size=3) | VALUES)
def test_any_value_as_a_json_row(name, tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "any.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    outcome(READERS[name], path)
    assert not litter(folder)
    if name in ("merge", "clean"):
        output = folder / "out.json"
        assert not output.exists() or isinstance(records.read_json(output), list)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", LINE_READERS)
@settings(max_examples=25)
@given(rows=st.lists(VALUES, max_size=3))
def test_any_value_as_a_line(name, tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    outcome(READERS[name], path)
    assert not litter(folder)
    shutil.rmtree(folder)


def _mutations(name: str):
    """The course's own YAML with one value, anywhere down to the third level, replaced by any other."""
    files = {
        "self-cognition": "self_cognition/persona.yaml",
        "general": "self_cognition/general.yaml",
        "prices": "prices.yaml",
    }
    tree = yaml.safe_load((paths.DATA / files.get(name, f"wishes/{name}.yaml")).read_text(encoding="utf-8"))

    def replaced(value, draw, depth=0):
        if not isinstance(value, (dict, list)) or not value or depth == 3 or draw(st.integers(0, 3)) == 0:
            return draw(VALUES)
        copy = value.copy()
        key = draw(st.sampled_from(list(copy) if isinstance(copy, dict) else range(len(copy))))
        copy[key] = replaced(copy[key], draw, depth + 1)
        return copy

    return st.composite(lambda draw: replaced(tree, draw))()


@pytest.mark.parametrize("value", [10**2_000, {"system": 10**2_000}], ids=["number", "table"])
@pytest.mark.parametrize("field", ["kind", "address"])
def test_a_message_shows_a_long_value_in_short(field, value, tmp_path):
    tree = yaml.safe_load((paths.DATA / "wishes" / "recipients.yaml").read_text(encoding="utf-8"))
    next(iter(tree.values()))[field] = value
    path = tmp_path / "any.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    assert isinstance(outcome(READERS["recipients"], path), CourseError)


@pytest.mark.parametrize(
    "name", [name for name in YAML_READERS if name not in ("read_yaml", "prices")] + ["prices"]
)
@settings(max_examples=25)
@given(data=st.data())
def test_any_value_in_the_courses_yaml(name, tmp_path_factory, data):
    value = data.draw(_mutations(name))
    folder = tmp_path_factory.mktemp("any")
    path = folder / "any.yaml"
    path.write_text(json.dumps(value, ensure_ascii=True, default=str), encoding="utf-8")  # JSON is YAML
    outcome(READERS[name], path)
    shutil.rmtree(folder)


@given(template=st.text(string.ascii_letters + "{}!:.[]0 ", max_size=12) | st.just("{owner:>99999999999}"))
def test_what_a_question_file_accepts_can_be_filled(tmp_path_factory, template):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "q.yaml"
    kind = {"title": "谁", "questions": ["你是谁"], "validation": ["您是"], "test": ["你叫什么"]}
    kind["answers"] = [template]
    path.write_text(json.dumps({"who": kind}), encoding="utf-8")
    kinds = outcome(self_cognition.load, path)
    if not isinstance(kinds, CourseError):
        self_cognition.build(self_cognition.Persona("小明", "小祝", "Gemma"), kinds)
    shutil.rmtree(folder)


def test_a_key_that_stands_twice(tmp_path):
    """In JSON the last one counts, as everywhere; in YAML, which people write by hand, it is an error."""
    path = tmp_path / "a.json"
    path.write_text('[{"conversation": 1, "conversation": [{"input": "一", "input": "二", "output": "三"}]}]')
    assert records.read_conversations(path) == [{"input": "二", "output": "三"}]
    for name, content in (("prices", "deepseek: {}\ndeepseek: {}"), ("self-cognition", "a: {}\na: {}")):
        path.write_text(content)
        with pytest.raises(CourseError, match="写了两次"):
            YAML_READERS[name](path)


# --- big ones ---------------------------------------------------------------------------------------


def test_ten_megabytes_in_one_string(tmp_path):
    rounds = tmp_path / "rounds"
    rows = [ROUND | {"output": HUGE}, ROUND | {"input": "祝姐姐生日" + " " * len(HUGE) + "x"}, ROUND]
    records.write_conversations(rounds / "wishes.json", rows)
    assert merge.merge_rounds(rounds, tmp_path / "merged.json").rows == 3
    _clean(tmp_path / "merged.json")
    rejects = records.read_jsonl(tmp_path / "rejects.jsonl")
    assert [row["rule"] for row in rejects] == [clean.OVERSIZE, clean.EXACT]
    assert [row["output"] for row in records.read_conversations(tmp_path / "out.json")] == [WISH]

    source = tmp_path / "cqia.jsonl"
    records.write_jsonl(source, [{"instruction": f"{n}{HUGE}", "output": "好"} for n in "一二"])
    assert _convert(source) == {"source": 2, "train": 1, "test": 1}


@pytest.mark.parametrize("rule", rules.RULES.values(), ids=lambda rule: rule.name)
@settings(max_examples=40)
@given(
    text=ANY_TEXT | st.text("“”「」，。！！～…\n #*_`>-呀啦姐姐您你祝福语🎂\u200d12", max_size=60),
    style=st.sampled_from(list(MATRIX.styles)),
    recipient=st.sampled_from(["姐姐", "爷爷", "李总", "妹妹"]),
)
def test_a_rule_takes_any_text(rule, text, style, recipient):
    result = rule.apply(text, MATRIX.read(MATRIX.request(recipient, "生日", style)))
    if rule.kind == "mend":
        assert isinstance(result, str) and len(result) <= len(text) + (rule.name == "missing_wish")
    else:
        assert result is None or (isinstance(result, str) and result)


@given(request=ANY_TEXT | st.text("祝姐妹生日春节快乐，, 小红书风格。！\u3000\n", max_size=200))
def test_any_request_is_read(request):
    found = MATRIX.read(request)
    assert found.text == request and found.style and (found.who is None or found.recipient)


@settings(max_examples=25)
@given(outputs=st.lists(ANY_TEXT, max_size=6))
def test_half_characters_are_mended_or_rejected_never_kept(outputs):
    turns = [TURN | {"output": WISH[:12] + text + WISH[12:]} for text in outputs]
    cleaned = clean.clean_turns(turns, MATRIX)
    assert len(cleaned.kept) + len(cleaned.rejects) == len(turns)
    for row in cleaned.kept:
        row["output"].encode()


# --- writing: the target is old or whole ------------------------------------------------------------

WRITERS = {
    "array": lambda path, rows: records.write_json_array(path, rows),
    "jsonl": lambda path, rows: records.write_jsonl(path, rows),
    "json": lambda path, rows: records.write_json(path, list(rows)),
    "conversations": lambda path, rows: records.write_conversations(path, rows),
}
MANY = [{"input": f"第 {number} 条", "output": WISH * 20} for number in range(200)]


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@contextlib.contextmanager
def only(limit: int):
    """Let this process write no file longer than ``limit`` bytes; the system refuses the next one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(max_examples=10)
@given(limit=st.integers(0, 100_000))
def test_a_disk_that_fills_at_any_byte(tmp_path_factory, limit):
    for write in WRITERS.values():
        folder = tmp_path_factory.mktemp("full")
        path = folder / "rows.json"
        path.write_text("old")
        with only(limit), pytest.raises(CourseError, match=r"写不了 .*rows\.json.*原来的文件没有改动"):
            write(path, iter(MANY))
        assert path.read_text() == "old"
        assert names(folder) == ["rows.json"]
        shutil.rmtree(folder)


@settings(max_examples=6)
@given(limit=st.integers(0, 60_000))
def test_a_disk_that_fills_under_a_stage(tmp_path_factory, limit):
    folder = tmp_path_factory.mktemp("full")
    rounds = folder / "rounds"
    records.write_conversations(
        rounds / "wishes.json", [ROUND | {"output": f"{n}{WISH}"} for n in range(200)]
    )
    merge.merge_rounds(rounds, folder / "merged.json")
    whole = (folder / "merged.json").read_bytes()
    for name in ("out.json", "rejects.jsonl", "report.json"):
        (folder / name).write_text("old")
    with only(limit), contextlib.suppress(CourseError):
        merge.merge_rounds(rounds, folder / "merged.json")
    assert (folder / "merged.json").read_bytes() == whole
    with only(limit), contextlib.suppress(CourseError):
        _clean(folder / "merged.json")
    assert not litter(folder)
    for name, read in (
        ("out.json", records.read_conversations),
        ("rejects.jsonl", records.read_jsonl),
        ("report.json", records.read_json),
    ):
        assert (folder / name).read_text() == "old" or read(folder / name) is not None
    shutil.rmtree(folder)


def test_half_a_character_is_not_written(write, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("old")
    rows = [*MANY, {"output": "\ud83d"}]
    if write is WRITERS["jsonl"]:  # it holds what was rejected, and escapes what no text can hold
        write(path, iter(rows))
        assert records.read_jsonl(path) == rows
        return
    with pytest.raises(CourseError, match="只有半个"):
        write(path, iter(rows))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["rows.json"]


def test_the_rows_own_errors_are_not_the_targets(write, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("old")

    def rows():
        yield from MANY
        raise ConnectionResetError("the source went away")

    with pytest.raises(ConnectionResetError, match="the source went away"):
        write(path, rows())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["rows.json"]


def test_devices_pipes_and_paths_that_cannot_be(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for target in (Path("/dev/full"), Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(CourseError, match="设备或管道"):
            write(target, iter(MANY))
        assert target.exists() and not target.is_file()
    (tmp_path / "file").write_text("old")
    for target in (tmp_path / "file" / "rows.json", tmp_path / ("长" * 300), Path("/proc/rows.json")):
        with pytest.raises(CourseError, match="写不了"):
            write(target, iter(MANY))
    assert (tmp_path / "file").read_text() == "old"
    assert not litter(tmp_path)


def test_a_folder_that_may_not_be_written(tmp_path):
    """Root may write anywhere, so the command is started without that right."""
    powerless = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root without setpriv (util-linux): nothing is read-only here")
        powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    rounds, target = tmp_path / "rounds", tmp_path / "target"
    records.write_conversations(rounds / "wishes.json", [ROUND])
    target.mkdir()
    (target / "merged.json").write_text("old")
    target.chmod(0o555)
    command = [sys.executable, "-m", "tianji_toolbox.cli", "merge", str(rounds), str(target / "merged.json")]
    done = subprocess.run([*powerless, *command], capture_output=True, text=True, cwd=paths.ROOT)
    target.chmod(0o755)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("错误：写不了 ") and "Traceback" not in done.stderr
    assert (target / "merged.json").read_text() == "old"
    assert names(target) == ["merged.json"]
