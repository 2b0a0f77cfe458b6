"""Results anywhere: a batch whose results go to an address, and another machine that goes on there."""

import shutil

import fsspec
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.classroom import batch, batch_plan
from tianji_toolbox.classroom.batch_store import Store, open_store


@pytest.fixture
def address():
    yield "memory://class/batch1"
    fsspec.filesystem("memory").rm("/class", recursive=True)


def test_another_machine_finds_what_is_done(tmp_path, address, capsys):
    first = new_code_cell('name = "a"', metadata={"tags": ["parameters"]})
    code = "from tianji_helpers import paths\n(paths.stage_dir('04') / 'a.txt').write_text(name)"
    work = new_code_cell(f"{code}\nassert name != '坏'")
    nbformat.write(new_notebook(cells=[first, work]), tmp_path / "toy.ipynb")
    plan_file = tmp_path / "test-store.yaml"
    plan_file.write_text(
        yaml.safe_dump({"notebooks": ["toy"], "grid": {"name": ["好", "坏"]}, "memory_gb": 1}),
        encoding="utf-8",
    )
    store = open_store(address, "test-store")
    try:
        assert cli.main(["batch", str(plan_file), "--output", address, "--workers", "2"]) == 1
        system = fsspec.filesystem("memory")
        there = {path.removeprefix("/class/batch1/") for path in system.find("/class/batch1")}
        own = {"status.json", "metrics.json", "run.json", "notebooks/toy.ipynb"}
        assert {f"runs/name=好/{name}" for name in own} | {
            "pages/name=好/toy.html",
            "report.html",
            "batch.json",
        } <= there
        assert system.cat("/class/batch1/runs/name=好/04_ruozhiba/a.txt") == "好".encode()
    finally:
        shutil.rmtree(store.folder)
    other = Store(tmp_path / "other", address)
    good, bad = batch.survey(batch_plan.load(plan_file), other)
    assert not good.fresh and good.status.status == "done" and bad.fresh
    assert (other.run_dir("name=好") / "notebooks" / "toy.ipynb").is_file()
    system.rm("/class/batch1/runs/name=好/status.json")  # cut off on the way
    (good, _) = batch.survey(batch_plan.load(plan_file), Store(tmp_path / "third", address))
    assert good.fresh


def test_folders_and_addresses(tmp_path):
    assert (
        open_store(f"file://{tmp_path}/x", "p") == open_store(f"{tmp_path}/x", "p") == Store(tmp_path / "x")
    )
    with pytest.raises(CourseError, match="nothing://x 打不开"):
        open_store("nothing://x", "p")
