"""``tianji synthesize`` and ``tianji synthesize-qa``."""

import pytest
from synthesis_teachers import RecordingTeacher

from tianji_helpers import paths, records
from tianji_helpers.synthesis import round_files
from tianji_toolbox import cli

WISHES = ["synthesize", "--style", "正常", "--limit", "6", "--tpm", "1000000", "--rpm", "60000"]
TEXTS = ["synthesize-qa", "--input", str(paths.DATA / "knowledge")]


@pytest.mark.parametrize("command", [WISHES, TEXTS])
def test_it_writes_files_and_says_what_it_did(tmp_path, capsys, command):
    assert cli.main([*command, "--output", str(tmp_path), "--concurrency", "2"]) == 0
    shown = capsys.readouterr().out
    assert "失败 0" in shown and "花费 0.0000 元" in shown
    assert [file for file in tmp_path.rglob("wishes_*.json") if str(file) in shown]


def test_best_of_keeps_what_the_embedded_model_finds_likelier(tmp_path, base_dir):
    with RecordingTeacher(dirt_share=0.0) as teacher:
        options = ["--output", str(tmp_path), "--base-url", teacher.base_url, "--best-of", "2"]
        assert cli.main([*WISHES, *options]) == 0
    (file,) = round_files(tmp_path)
    assert len(records.read_conversations(file)) == 6 and len(teacher.bodies) == 12


def test_the_price_of_asking_several_times_is_shown_before_anything_is_sent(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-0123456789.secretsecret")
    command = [*WISHES, "--provider", "deepseek", "--concurrency", "1", "--output", str(tmp_path)]
    shown = []  # when a request arrives
    with RecordingTeacher() as teacher:
        teacher.reply = lambda body: shown.append(capsys.readouterr().out) or (402, {}, {"error": {}})
        command += ["--base-url", teacher.base_url]
        assert cli.main([*command, "--best-of", "3", "--dry-run"]) == 0
        estimate = "".join(capsys.readouterr().out.splitlines(keepends=True)[:2])
        assert "要发 18 个请求" in estimate and "价格表日期 2026" in estimate
        assert cli.main([*command, "--best-of", "3"]) == 1
        assert cli.main(command) == 1  # once: as before, nothing
    assert shown == [estimate, ""]


@pytest.mark.parametrize("command", [WISHES, TEXTS])
def test_a_failed_row_makes_the_exit_status_1(tmp_path, capsys, command):
    with RecordingTeacher() as teacher:
        teacher.reply = lambda body: (400, {}, {"error": {"message": "Content Exists Risk"}})
        assert cli.main([*command, "--output", str(tmp_path), "--base-url", teacher.base_url]) == 1
    shown = capsys.readouterr()
    assert "Content Exists Risk" in shown.err and "只会补上失败的那些" in shown.err


@pytest.mark.parametrize("command", [WISHES, TEXTS])
def test_a_dry_run_needs_no_key_and_leaves_nothing(tmp_path, capsys, monkeypatch, command):
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    folder = tmp_path / "never"
    options = ["--provider", "deepseek", "--rounds", "2", "--dry-run", "--output", str(folder)]
    assert cli.main([*command, *options]) == 0
    shown = capsys.readouterr().out
    assert "要发" in shown and "deepseek-flash" in shown and "价格表日期 2026" in shown
    assert ("对象：" in shown) == (command is WISHES)
    assert not folder.exists()
