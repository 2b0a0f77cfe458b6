"""Whatever is written on a command line: status and one message, never a traceback; paths mean one thing."""

import argparse
import os
import subprocess
import sys

import pytest

from tianji_helpers import paths, records
from tianji_helpers.training import configs
from tianji_toolbox import cli
from tianji_toolbox.cli import training
from tianji_toolbox.cli.arguments import Place, folder_or_default, text

pytestmark = pytest.mark.slow

(COMMANDS,) = [a.choices for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
ACTIONS = [
    (name, action) for name, sub in COMMANDS.items() for action in sub._actions if action.dest != "help"
]
NUMBERS = [(name, action) for name, action in ACTIONS if getattr(action.type, "__name__", "") == "read"]
PLACES = [(name, action) for name, action in ACTIONS if isinstance(action.type, Place)]
WORDS = [(name, a) for name, a in ACTIONS if a.type is text and not a.choices]
DEFAULTED = [(name, a) for name, a in ACTIONS if a.type is folder_or_default]
CHOICES = [(name, a) for name, a in ACTIONS if a.choices]
FLAGS = [(name, a) for name, a in ACTIONS if a.nargs == 0]
OTHERS = [("batch", "--shard"), ("grade", "--deadline")]  # have tests of their own
CONFIG = "configs/wishes_gemma3_270m_cpu.py"
ODD = (  # what YAML cannot read, reads a part of, or only reads with the whole stack
    *(
        "2026-13-45",
        "2026-01-31",
        "!!int a",
        "9" * 5000,
        "0x" + "f" * 5000,
        "nan",
        ".inf",
        "[" * 5000,
        "{" * 5000,
    ),
    *("[0x" + "f" * 5000 + "]", "- " * 5000, "&a [*a]", "*a", "5 #x", "#x", "{a: 1, a: 2}", "\0", "---", ""),
)
# of commands that would go to the network, or take minutes: what has any word beside it refused
REFUSED = {"course": ["-p", "x"], "dataset": ["x"], "prepare-model": ["x"]}


def label(value):
    if isinstance(value, argparse.Action):
        return value.option_strings[-1] if value.option_strings else value.dest
    return str(value)[:20]


def tianji(*arguments, **options):
    command = [sys.executable, "-m", "tianji_toolbox.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def command(name, chosen, value, folder):
    """Return a command line with ``value`` for one argument, and what is right for the others."""
    rows = folder / "rows.json"
    records.write_conversations(rows, [{"system": "s", "input": "祝姐姐生日", "output": "姐姐，生日快乐！"}])
    (folder / "folder").mkdir(exist_ok=True)
    line, behind = [name], []
    for action in COMMANDS[name]._actions:
        given = value if action is chosen else None
        if given is None:
            if not action.required or action.nargs == "?":
                continue
            place = action.type if isinstance(action.type, Place) else None
            if action.choices:
                given = next(iter(action.choices))
            elif place is None:
                given = "one/two"
            elif place.written:
                given = str(folder / f"new-{action.dest}{''.join(place.ends[:1])}")
            else:
                given = str(folder / "folder" if place.kind == "folder" else rows)
        if action.option_strings:
            line += [action.option_strings[-1]] if action.nargs == 0 else [action.option_strings[-1], given]
        else:
            behind.append(given)
    return [*line, *behind]


def outcome(line, capsys):
    """Run a command line here; return its status and what it says is wrong."""
    capsys.readouterr()
    try:
        status = cli.main(line)
    except SystemExit as exit_:
        status = exit_.code
    return status, [text for text in capsys.readouterr().err.splitlines() if text.startswith("错误：")]


@pytest.mark.parametrize(("name", "action"), NUMBERS, ids=label)
def test_a_number_that_is_none_is_refused(name, action, folder, capsys):
    for value in ("热", "", "nan", "1e999", "9" * 5000, "-5", "1,5", "½"):
        line = command(name, action, value, folder)
        status, said = outcome(line, capsys)
        assert status == 2 and len(said) == 1 and label(action) in said[0], (value, said)


@pytest.mark.parametrize(("name", "action"), PLACES, ids=label)
def test_a_place_that_is_none_is_refused(name, action, folder, capsys):
    place = action.type
    wrong = {"": "", "~nobody-of-that-name/x": ""}
    if not place.written:
        wrong |= {"nowhere/x.json": "nowhere", "長" * 300: "", "\udcff": "", "rows.json/x": ""}
    if place.kind == "file":
        wrong["folder"] = "folder"
    if place.kind == "folder":
        wrong["rows.json"] = "rows.json"
    if place.ends:  # readers take the content for what the name says
        wrong |= dict.fromkeys(("x.parquet", "x.txt", "x", "x.json.gz"), "")
    for value in wrong:
        line = command(name, action, value, folder)
        if action.nargs == "+":
            line.append(line[-1])
        status, said = outcome(line, capsys)
        assert status == 2 and len(said) == 1, (value, status, said)


@pytest.mark.parametrize(("name", "action"), WORDS, ids=label)
def test_any_word_is_taken_or_refused(name, action, folder, capsys):
    beside = REFUSED.get(name, [])
    if action.dest == "name":
        beside = ["--source", "x"]
    odd = [f"lr={value}" for value in ODD] if label(action) == "--cfg-options" else []
    for value in ("", " ", "热🎂\n", "a=b=c", "{x}", "../..", "0" * 10_000, "\udcff", *odd):
        line = command(name, action, value, folder) + beside
        if name.startswith("synthesize"):
            line.append("--dry-run")
        status, said = outcome(line, capsys)
        # bytes that are no text are known to be wrong before a command runs
        allowed = {2} if value == "\udcff" else {1, 2} if beside and value else {0, 1, 2}
        assert status in allowed and len(said) == (status != 0), (value, status, said)


def test_every_argument_of_every_command_is_tried():
    tried = [NUMBERS, PLACES, WORDS, DEFAULTED, CHOICES, FLAGS]
    names = {(name, label(action)) for some in tried for name, action in some} | set(OTHERS)
    assert names == {(name, label(action)) for name, action in ACTIONS}


@pytest.mark.parametrize(("name", "action"), CHOICES, ids=label)
def test_a_choice_that_there_is_not_is_refused(name, action, folder, capsys):
    for value in ("", "热", "\udcff", "a b"):
        status, said = outcome(command(name, action, value, folder), capsys)
        assert status == 2 and len(said) == 1 and label(action) in said[0], (value, said)


@pytest.mark.parametrize(("name", "action"), FLAGS, ids=label)
def test_a_flag_alone_is_no_traceback(name, action, folder, capsys):
    status, said = outcome(command(name, action, "", folder), capsys)
    assert status in (0, 1, 2) and len(said) == (status != 0), said


@pytest.mark.parametrize(("name", "action"), DEFAULTED, ids=label)
def test_a_place_that_may_be_left_out_is_a_folder(name, action, folder, capsys):
    more = {"synthesize": ["--limit=1"], "synthesize-qa": ["--limit=1"], "course": ["--only=x"]}
    more |= {"dataset": ["no-such-data-set"]}

    def run(value):
        return outcome([*command(name, action, value, folder), *more.get(name, [])], capsys)

    for value in ("~nobody-of-that-name/x", "s3://bucket/x", "長" * 300, "rows.json/x"):
        status, said = run(value)
        # a diagnosis says what is wrong in its own lines
        assert status in (1, 2) and (len(said) == 1 or name == "doctor"), (value, status, said)
    assert {path.name for path in folder.iterdir()} == {"rows.json", "folder"}
    status, said = run("\udcff/x")  # bytes that are no UTF-8 name a folder as well as others
    assert status in (0, 1, 2) and len(said) == (status != 0), (status, said)


@pytest.mark.parametrize(
    "line", [["course", "--only", "x"], ["course", "-p", "x"], ["dataset", "x"], ["prepare-model", "x"]]
)
def test_a_name_that_is_unknown_is_refused(line, folder, capsys):
    status, said = outcome(line, capsys)
    assert status == 1 and len(said) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--deepspeed", "zero2"],
        ["--devices", "0"],
        ["--cfg-options", "train_dataloader.batch_size=abc"],
        ["--cfg-options", "train_dataloader.dataset.max_length=-1"],
        ["--cfg-options", "{"],
        ["--cfg-options", "lr=[1"],
        ["--cfg-options", "model=5"],
    ],
    ids=str,
)
def test_an_estimate_of_what_cannot_be_trained_is_refused(options, capsys):
    status, said = outcome(["estimate", CONFIG, *options], capsys)
    assert status in (1, 2) and len(said) == 1


@pytest.mark.parametrize("name", ["lr", "max_iters", "evaluation_inputs", "x", "model.recompute_share"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:9])
def test_an_odd_value_of_a_setting_is_refused_in_a_line_that_names_it(name, value, capsys):
    status, said = outcome(["estimate", CONFIG, "--cfg-options", f"{name}={value}"], capsys)
    assert status == 1 and len(said) == 1 and name in said[0] and len(said[0]) < 1000, said


@pytest.mark.parametrize("name", [*configs.PATHS, configs.DATA_FILE])
def test_a_path_of_a_setting_starts_from_the_current_folder(name, folder, capsys):
    assert training._read_options([f"{name}=a #b/x.json"]) == {name: folder / "a #b" / "x.json"}
    assert training._read_options([f"{name}="]) == {name: ""}
    for value in ("s3://bucket/x", "~nobody-of-that-name/x"):
        status, said = outcome(
            ["estimate", str(paths.ROOT / CONFIG), "--cfg-options", f"{name}={value}"], capsys
        )
        assert status == 2 and len(said) == 1 and name in said[0], said


def test_no_other_place_of_a_config_is_a_path():
    for file in sorted(paths.CONFIGS.glob("*.py")):
        cfg = configs.load_config(file)
        found = {
            place
            for place in configs._leaves(cfg)
            if isinstance(value := configs.part(cfg, place), str)
            and (value.startswith(("models/", "outputs/", "data/")) or place.endswith(("_dir", "_path")))
        }
        known = {*configs.PATHS, *(place for place, name in configs.PLACES.items() if name in configs.PATHS)}
        assert {place for place in found if "tokenizer" not in place} <= known, file.name


@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:9])
def test_an_odd_value_of_a_parameter_is_refused_in_a_line_that_names_it(value, folder, capsys):
    for name in ("styles", "limit", "temperature"):
        status, said = outcome(["course", "--only", "01", "-p", f"{name}={value}"], capsys)
        assert status == 1 and len(said) == 1 and f"参数 {name} " in said[0], said


# --- one file under two names -----------------------------------------------------------------------


def test_nothing_is_written_over_what_is_read_or_written_beside_it(folder, capsys):
    rows = folder / "rows.json"
    records.write_conversations(
        rows, [{"system": "s", "input": "祝姐姐生日", "output": "姐姐，生日快乐！"}] * 9
    )
    before = rows.read_bytes()
    (folder / "soft.json").symlink_to(rows)
    os.link(rows, folder / "hard.json")
    (folder / "sub").mkdir()
    for name in (
        "rows.json",
        str(rows),
        "sub/../rows.json",
        "./rows.json",
        "soft.json",
        "hard.json",
        "ROWS.json",
    ):
        for line in (
            ["convert", "rows.json", name, "--to", "openai"],
            ["clean", name, "--output", "rows.json", "--rejects", "r.jsonl", "--report", "p.json"],
            ["clean", "rows.json", "--output", "o.json", "--rejects", "r.jsonl", "--report", name],
            ["ruozhiba", "rows.json", "--train", "a.jsonl", "--test", name],
        ):
            status, said = outcome(line, capsys)
            assert status in (1, 2) and "是同一个文件" in said[0], line
    for line in (
        ["clean", "rows.json", "--output", "o.jsonl", "--rejects", "./o.jsonl", "--report", "p.json"],
        ["clean", "rows.json", "--output", "o.json", "--rejects", "r.jsonl", "--report", "sub/../O.json"],
        ["ruozhiba", "rows.json", "--train", "a.jsonl", "--test", "a.jsonl"],
    ):
        status, said = outcome(line, capsys)
        assert status == 1 and "是同一个文件" in said[0], line
    taken = "o.json.provenance.json"
    (folder / taken).write_bytes(before)
    for line in (  # what is left beside each output
        ["clean", "rows.json", *("--output", "o.json", "--rejects", "r.jsonl"), "--report", taken],
        ["convert", taken, "sub/../O.json", "--to", "openai"],
    ):
        status, said = outcome(line, capsys)
        assert status == 1 and "provenance.json 是 " in said[0] and "会被盖掉" in said[0], line
    assert (folder / taken).read_bytes() == before
    (folder / taken).unlink()
    assert rows.read_bytes() == before and sorted(path.name for path in folder.iterdir()) == [
        *("hard.json", "rows.json", "soft.json", "sub")
    ]


# --- paths start from the current folder ------------------------------------------------------------

LINES = {
    "train": ["nowhere.py", "--work-dir", "w"],
    "estimate": ["nowhere.py"],
    "curves": ["nowhere"],
    "chat": ["nowhere"],
    "export": ["nowhere", "out"],
    "app": ["nowhere", "out", "--to", "openxlab"],
    "merge": ["nowhere", "m.json"],
    "grade": ["nowhere"],
    "report": ["nowhere"],
    "batch": ["nowhere.yaml", "--dry-run"],
    "pth-to-hf": ["nowhere.py", "x.pth", "out"],
    "merge-adapter": ["nowhere", "b", "c"],
    "serve": ["nowhere.gguf"],
}


@pytest.mark.parametrize("name", LINES)
def test_a_message_shows_the_absolute_path_that_was_looked_at(name, folder, capsys):
    status, said = outcome([name, *LINES[name]], capsys)
    assert status == 2 and str(folder / LINES[name][0]) in said[0], said


def test_a_mistyped_run_is_named_and_not_made(folder, capsys):
    for run in ("typo", "typo/deeper"):
        status, said = outcome(["evaluate", run], capsys)
        assert status == 1 and str(folder / run / "05_training") in said[0]
    assert not list(folder.iterdir())


def test_what_is_written_goes_below_the_current_folder(folder, capsys):
    assert cli.main(["synthesize", "--style", "正常", "--limit", "2", "--output", "run"]) == 0
    assert cli.main(["merge", "run/01_synthesis", "m.json"]) == 0
    assert {"run", "m.json"} <= {path.name for path in folder.iterdir()}


# --- where the output goes --------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--help", "models", "synthesize --style 小红书 --dry-run"])
def test_a_reader_that_goes_away_is_no_error(line):
    command = f"{sys.executable} -m tianji_toolbox.cli {line} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 141)


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "latin-1"])
def test_an_output_that_is_not_utf8_lacks_some_characters_only(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = tianji("synthesize", "--style", "小红书", "--dry-run", env=environment)
    assert done.returncode == 0 and done.stderr == b""
    named = ("--output", "a.json", "--rejects", "b.jsonl", "--report", "c.json")
    wrong = tianji("clean", "🎂", *named, env=environment)
    assert wrong.returncode == 2 and b"Traceback" not in wrong.stderr and b"\\U0001f382" in wrong.stderr


def test_figures_go_where_they_can(folder, capsys):
    logs = folder / "work" / "20260101_000000" / "vis_data"
    logs.mkdir(parents=True)
    point = {"step": 1, "loss": 2.0, "lr": 1e-3, "time": 0.1}
    (logs / "scalars.json").write_text(records.json.dumps(point) + '\n{"step": 2, "lo')  # a kill
    (folder / "sub").mkdir()
    assert cli.main(["curves", "work", "--output", "new/x.png"]) == 0
    assert (folder / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
    named = folder / "new" / "x.png"
    named.write_text("mine")
    for _ in range(2):  # a name that was given is written over; one that was not, only if it is ours
        assert cli.main(["curves", "work", "--output", "new/x.png"]) == cli.main(["curves", "work"]) == 0
    (folder / "work" / "curves.png").write_text("mine")
    assert cli.main(["curves", "work"]) == 0 and "留作 curves.png.kept-1" in capsys.readouterr().out
    assert [item.name for item in folder.rglob("*.kept-*")] == ["curves.png.kept-1"]
    for name, words in (("x.foo", ".png"), ("x", ".png"), ("sub", "sub"), ("sub/", "sub"), ("/dev/full", "")):
        status, said = outcome(["curves", "work", "--output", name], capsys)
        assert status in (1, 2) and words in said[0]
    assert sorted(path.name for path in folder.iterdir()) == ["new", "sub", "work"]
