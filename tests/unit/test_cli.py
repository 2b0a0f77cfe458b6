"""The command line: help of every command, its speed, errors and exit statuses."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tianji_helpers import __version__, cli
from tianji_helpers.errors import CourseError

PARSER = cli.build_parser()
(COMMANDS,) = [a.choices for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)]


def tianji(*arguments, **options):
    return subprocess.run(
        [str(Path(sys.executable).with_name("tianji")), *arguments], capture_output=True, text=True, **options
    )


def test_the_commands_of_the_course_are_there():
    assert {"doctor", "course", "models", "prepare-model", "train", "chat"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_in_chinese(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert exit_.value.code == 0 and f"tianji {name}" in shown and COMMANDS[name].description in shown
    for action in COMMANDS[name]._actions:
        assert action.help and not action.help.isascii(), action


def test_help_is_instant():
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        shown = tianji("--help")
        best = min(best, time.perf_counter() - began)
        assert shown.returncode == 0 and "用法：tianji" in shown.stdout
    assert best < 0.3


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from tianji_helpers import cli; cli.build_parser().format_help()\n"
        "assert not {'torch', 'yaml', 'nbformat', 'psutil', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_command_shows_the_help_and_version_the_version(capsys):
    assert cli.main([]) == 0 and "用法：tianji" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["course", "--only", "01", "--from", "02"],
        ["train", "configs/x.py"],
        ["chat"],
        ["chat", "model", "--temperature", "hot"],
        ["course", "--onl", "01"],
    ],
)
def test_a_wrong_command_line_exits_2_and_points_to_the_help(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    errors = capsys.readouterr().err
    assert exit_.value.code == 2 and errors.startswith("错误：") and "--help" in errors


def test_a_course_error_is_one_line_without_a_traceback():
    done = tianji("course", "-p", "seed")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "错误：'seed' 不是“名字=值”的样子，例如 -p seed=7。\n"


def test_ctrl_c_exits_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tianji_helpers.doctor.diagnose", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "已中断" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("tianji_helpers.doctor.diagnose", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["doctor"])


def test_doctor_exits_1_when_a_check_fails(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["doctor", "--output", str(tmp_path / "file" / "below")]) == 1
    assert "[FAIL]" in capsys.readouterr().out


def test_pairs_keep_what_stands_behind_the_first_equals_sign():
    assert cli._pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(CourseError):
        cli._pairs(["=1"])


def test_an_unknown_lesson_is_an_error_of_the_course(tmp_path):
    done = tianji("course", "--only", "99", "--output", str(tmp_path))
    assert done.returncode == 1 and "没有编号为 99 的课" in done.stderr
