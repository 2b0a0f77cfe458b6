"""Paths: from the project root, whatever the working folder; shown without one machine's parts."""

import ast
import builtins

import pytest

from tianji_helpers import paths


def test_relative_names_start_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.resolve("outputs/x") == paths.ROOT / "outputs" / "x"
    assert paths.resolve(tmp_path) == tmp_path
    assert (paths.ROOT / "pyproject.toml").is_file()


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.resolve("~/run") == tmp_path / "run"


def test_a_user_without_a_home_is_told_so_only_for_a_path_that_begins_there(homeless):
    assert paths.home() is None
    assert paths.resolve("outputs/x") == paths.ROOT / "outputs" / "x"
    for path in ("~/run", "~nobody-of-this-name/run"):
        with pytest.raises(OSError, match=rf"{path}.*用户文件夹.*完整的路径"):
            paths.resolve(path)


def test_the_run_folder_is_named_by_parameter_then_environment_then_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TIANJI_OUTPUT_DIR", str(tmp_path))
    assert paths.run_dir() == tmp_path
    assert paths.run_dir("outputs/mine") == paths.ROOT / "outputs" / "mine"
    monkeypatch.delenv("TIANJI_OUTPUT_DIR")
    assert paths.run_dir() == paths.ROOT / "outputs" / "default"


def test_models_lie_in_the_project_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("TIANJI_MODELS_DIR", raising=False)
    assert paths.models_dir() == paths.ROOT / "models"
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path))
    assert paths.models_dir() == tmp_path


@pytest.mark.parametrize("value", ["s3://bucket/x", "~nobody-of-that-name/x"])
def test_an_address_is_no_folder(monkeypatch, value):
    for variable, find in {"TIANJI_OUTPUT_DIR": paths.run_dir, "TIANJI_MODELS_DIR": paths.models_dir}.items():
        monkeypatch.setenv(variable, value)
        with pytest.raises(OSError, match=f"{variable} .*{value}"):
            find()
    with pytest.raises(OSError, match=f"^.Errno 22. .*{value}"):
        paths.run_dir(value)


@pytest.mark.parametrize("stage", ["03", "03_self_cognition"])
def test_a_stage_folder_is_made(tmp_path, stage):
    assert paths.stage_dir(stage, tmp_path) == tmp_path / "03_self_cognition"
    assert (tmp_path / "03_self_cognition").is_dir()


def test_what_is_told_is_whole_but_in_a_notebook(tmp_path, monkeypatch):
    assert paths.told(tmp_path / "x.json") == str(tmp_path / "x.json")
    assert paths.told("data/wishes") == str(paths.DATA / "wishes")
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    assert paths.told(tmp_path / "x.json") == "x.json" and paths.told("data/wishes") == "data/wishes"


def test_no_error_names_a_file_without_its_folder():
    shown = []
    for file in (file for package in (paths.HELPERS, paths.TOOLBOX) for file in package.rglob("*.py")):
        raised = [
            one for one in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(one, ast.Raise)
        ]
        shown += [(file.name, one.lineno) for one in raised if "paths.show(" in ast.unparse(one)]
    assert shown == []


def test_what_is_shown_holds_no_machine(tmp_path):
    run = tmp_path / "run"
    assert paths.show(run / "01_synthesis" / "a.json", run) == "01_synthesis/a.json"
    assert paths.show(paths.DATA / "wishes") == "data/wishes"
    assert paths.show(tmp_path / "elsewhere.json", run) == "elsewhere.json"
