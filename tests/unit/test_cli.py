"""The command line: help of every command, its speed, errors and exit statuses."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tianji_helpers import __version__, formats, records, wishes
from tianji_helpers.dataset import self_cognition, splits
from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.cli import arguments

PARSER = cli.build_parser()
(COMMANDS,) = [a.choices for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)]


def tianji(*arguments, **options):
    return subprocess.run(
        [str(Path(sys.executable).with_name("tianji")), *arguments], capture_output=True, text=True, **options
    )


def test_the_commands_of_the_course_are_there():
    assert {
        "doctor",
        "course",
        "models",
        "prepare-model",
        "train",
        "pth-to-hf",
        "merge-adapter",
        "chat",
    } <= set(COMMANDS)


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
        before = sum(os.times()[2:4])  # the processor's time, of children: others may be busy, too
        shown = tianji("--help")
        best = min(best, sum(os.times()[2:4]) - before)
        assert shown.returncode == 0 and "用法：tianji" in shown.stdout
    assert best < 0.3


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from tianji_toolbox import cli; cli.build_parser().format_help()\n"
        "assert not {'torch', 'yaml', 'nbformat', 'psutil', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_command_shows_the_help_and_version_the_version(capsys):
    assert cli.main([]) == 0 and "用法：tianji" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("dance", "没有 'dance'，可选的有 'doctor'"),
        ("course --only 01 --from 02", "--only 和 --from 只能写一个"),
        ("train configs/x.py", "缺少参数 --work-dir"),
        ("chat", "缺少参数 model_dir"),
        ("chat model --temperature hot", "'hot' 不行，应当是 0 到 100 之间的数"),
        ("chat model --adapter", "后面要写一个值"),
        ("chat model --adapter x=", "路径不能是空的"),
        ("train x.py --work-dir w --cfg-options", "后面至少要写一个值"),
        ("course --onl 01", "不认识 --onl 01"),
        ("merge a b.json --skip-bad=3", "后面不能写值 '3'"),
        ("merge a b.jsonl", "'b.jsonl' 的名字要以 .json 结尾"),
    ],
)
def test_a_wrong_command_line_exits_2_says_why_and_points_to_the_help(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments.split())
    errors = capsys.readouterr().err
    assert exit_.value.code == 2 and errors.startswith("错误：") and message in errors and "--help" in errors
    assert not re.search(r"argument|expected|invalid|required|unrecognized", errors)


def test_an_option_of_many_values_may_be_written_twice():
    words = "train x.py --work-dir w --cfg-options lr=1 --cfg-options seed=2 max_iters=9"
    assert cli.build_parser().parse_args(words.split()).cfg_options == ["lr=1", "seed=2", "max_iters=9"]


@pytest.mark.parametrize(
    "words", ["course -p seed=1 -p seed=2", "train README.md --work-dir w --cfg-options seed=1 seed=2"]
)
def test_two_values_for_one_name_are_refused(words, capsys):
    assert cli.main(words.split()) == 1
    assert "seed 给了两个不同的值：'1' 和 '2'" in capsys.readouterr().err


def test_a_course_error_is_one_line_without_a_traceback():
    done = tianji("course", "-p", "seed")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "错误：'seed' 不是“名字=值”的样子，例如 seed=7。\n"


def test_ctrl_c_exits_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tianji_toolbox.doctor.diagnose", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "已中断" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("tianji_toolbox.doctor.diagnose", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["doctor"])


def test_doctor_exits_1_when_a_check_fails(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["doctor", "--output", str(tmp_path / "file" / "below")]) == 1
    assert "[FAIL]" in capsys.readouterr().out


def test_pairs_keep_what_stands_behind_the_first_equals_sign():
    assert arguments.pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(CourseError):
        arguments.pairs(["=1"])


def test_an_unknown_lesson_is_an_error_of_the_course(tmp_path):
    done = tianji("course", "--only", "99", "--output", str(tmp_path))
    assert done.returncode == 1 and "没有编号为 99 的课" in done.stderr


def test_the_data_commands_work_one_after_another(tmp_path, capsys):
    run, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    assert cli.main(["synthesize", "--style", "正常", "--limit", "20", "--output", str(run)]) == 0
    assert cli.main(["merge", str(run / "01_synthesis"), str(data / "merged.json")]) == 0
    assert "写出 20 条" in capsys.readouterr().out
    names = {"--output": "clean.json", "--rejects": "rejects.jsonl", "--report": "report.json"}
    files = [word for option, name in names.items() for word in (option, str(data / name))]
    assert cli.main(["clean", str(data / "merged.json"), *files, "--variety", "3"]) == 0
    assert "读入 20 条" in capsys.readouterr().out
    assert {*names.values()} <= {file.name for file in data.iterdir()}
    assert "我想祝" in (data / "clean.json").read_text(encoding="utf-8")
    assert cli.main(["clean", str(data / "merged.json"), *files, "--variety", "9"]) == 1
    assert "1 到 5" in capsys.readouterr().err
    persona = ["--owner", "小红", "--assistant", "小福", "--wordings", "1"]
    assert cli.main(["self-cognition", "--output", str(data / "self_cognition.json"), *persona]) == 0
    assert "小福" in (data / "self_cognition.json").read_text(encoding="utf-8")
    source = data / "source.jsonl"
    record = {"instruction": "为什么", "input": "", "output": "因为"}
    source.write_text("".join(json.dumps(record | {"instruction": f"为什么{n}"}) + "\n" for n in range(10)))
    halves = ["--train", str(data / "train.jsonl"), "--test", str(data / "test.jsonl")]
    whole = data / "format.jsonl"
    assert cli.main(["ruozhiba", str(source), *halves, "--format-output", str(whole)]) == 0
    assert "训练 7 条，测试 3 条" in capsys.readouterr().out
    assert whole.read_bytes() == (data / "train.jsonl").read_bytes() + (data / "test.jsonl").read_bytes()
    assert cli.main(["convert", str(whole), str(data / "xtuner.json"), "--to", "xtuner"]) == 0
    assert "openai → xtuner：10 条，10 轮" in capsys.readouterr().out
    assert cli.main(["leakage", halves[1], str(whole)]) == 1
    assert "漏题 7 条：一字不差 7 条" in capsys.readouterr().out
    assert cli.main(["leakage", halves[1], str(whole), "--repair"]) == 0
    assert cli.main(["leakage", halves[1], str(whole)]) == 0
    assert whole.read_bytes() == (data / "test.jsonl").read_bytes()


def test_clean_wishes_are_split_from_the_shell(tmp_path, capsys):
    matrix = wishes.load()
    turns = [{"input": matrix.request(*pair), "output": "好"} for pair in matrix.pairs()]
    records.write_conversations(tmp_path / "wishes.json", turns)
    assert cli.main(["split", str(tmp_path / "wishes.json"), "--test", "0.1"]) == 0
    validation, test = round(0.05 * len(turns)), round(0.1 * len(turns))
    train = len(turns) - validation - test
    assert f"训练 {train} 条，验证 {validation} 条，测试 {test} 条" in capsys.readouterr().out
    files = [str(tmp_path / f"wishes_{part}.json") for part in splits.PARTS]
    assert cli.main(["leakage", *files]) == 0
    assert capsys.readouterr().out.count("漏题 0 条") == 3
    assert cli.main(["leakage", *files, files[1]]) == 1
    assert cli.main(["leakage", files[0]]) == 1
    assert "只给了一个文件" in capsys.readouterr().err
    assert cli.main(["split", files[2], "--output-dir", str(tmp_path / "again"), "--by", "row"]) == 0
    assert len(list((tmp_path / "again").glob("wishes_test_*.json"))) == 6


def test_repeating_the_persona_says_what_it_costs(tmp_path, capsys):
    target = tmp_path / "copied.json"
    names = ["--owner", "小红", "--assistant", "小福", "--general-ratio", "0", "--repeat", "8"]
    assert cli.main(["self-cognition", "--output", str(target), *names]) == 0
    assert "训练一轮要 8 倍的时间" in capsys.readouterr().err
    rows = json.loads(target.read_text(encoding="utf-8"))
    assert rows[: len(rows) // 8] * 8 == rows


def test_choices_and_defaults_are_those_of_the_functions():
    def option(command, name):
        (action,) = [action for action in COMMANDS[command]._actions if name in action.option_strings]
        return action

    assert option("convert", "--to").choices == option("convert", "--from").choices == formats.FORMATS
    assert option("leakage", "--by").choices == splits.COMPARED
    assert option("split", "--by").choices == splits.GROUPINGS
    assert option("split", "--validation").default == splits.VALIDATION_SHARE
    assert option("split", "--test").default == splits.TEST_SHARE
    assert option("self-cognition", "--general-ratio").default == self_cognition.GENERAL_RATIO


def test_published_data_sets_are_listed_and_an_unknown_one_is_refused(capsys):
    assert cli.main(["dataset"]) == 0
    assert "sanbu/tianji-chinese@" in capsys.readouterr().out
    assert cli.main(["dataset", "ruozhi"]) == 1
    assert "你是想用 ruozhiba 吗" in capsys.readouterr().err


def test_models_are_listed_and_an_unknown_one_is_refused(capsys):
    assert cli.main(["models"]) == 0
    assert "gemma-3-270m" in capsys.readouterr().out
    assert cli.main(["prepare-model", "gema"]) == 1
    assert "gemma-3-270m" in capsys.readouterr().err


def test_training_without_its_config_is_refused(tmp_path, capsys):
    assert cli.main(["train", "configs/none.py", "--work-dir", str(tmp_path)]) == 2
    assert "none.py" in capsys.readouterr().err


def test_converting_and_merging_what_is_not_there_is_refused(tmp_path, capsys):
    target = str(tmp_path / "target")
    assert cli.main(["pth-to-hf", "configs/wishes_gemma3_270m_cpu.py", "none.pth", target]) == 2
    assert f"找不到检查点 {Path('none.pth').absolute()}" in capsys.readouterr().err
    assert cli.main(["merge-adapter", str(tmp_path / "base"), str(tmp_path / "adapter"), target]) == 2
    assert f"模型文件夹 {tmp_path / 'base'} 不存在" in capsys.readouterr().err


def test_adapters_of_one_name_are_refused(capsys):
    assert cli.main(["chat", "m", "--adapter", "a/x", "--adapter", "b/x"]) == 2
    assert "有两个适配器都叫 x" in capsys.readouterr().err


def test_a_bad_row_stops_a_merge_or_is_passed_over_aloud(tmp_path, capsys):
    turn = dict.fromkeys(("system", "src_input", "style_name", "input", "output"), "x")
    rows = [{"conversation": [turn]}, {"conversation": []}]
    (tmp_path / "wishes_x_2026-01-01-00-00-00.json").write_text(json.dumps(rows))
    merged = str(tmp_path / "out" / "merged.json")
    assert cli.main(["merge", str(tmp_path), merged]) == 1
    assert "第 2 条" in capsys.readouterr().err
    assert cli.main(["merge", str(tmp_path), merged, "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert "写出 1 条" in shown.out and "弃用 1 条" in shown.out and "没有读" not in shown.out
    assert "第 2 条" in (tmp_path / "out" / "merged_rejects.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "told"),
    [(["a.xlsx", "notes.txt"], "a.xlsx、notes.txt（"), ([f"{n}.txt" for n in range(9)], "4.txt 等 9 个（")],
)
def test_a_merge_names_the_files_that_it_cannot_read(names, told, tmp_path, capsys):
    records.write_conversations(tmp_path / "rows.json", [{"input": "x", "output": "y"}])
    for name in names:
        (tmp_path / name).touch()
    assert cli.main(["merge", str(tmp_path), str(tmp_path / "out" / "merged.json")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("没有读")]
    assert f"{told}只认 .json、" in line
