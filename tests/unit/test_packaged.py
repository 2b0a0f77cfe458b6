"""The small teacher's file, joined from packages: small ones of the same make, as pip installs them."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tianji_helpers import locks, packaged
from tianji_helpers.errors import CourseError

PARTS = [random.Random(number).randbytes(1000 + number) for number in (1, 2, 3)]
WHOLE = b"".join(PARTS)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on Python's path with the packages, and the module told to expect those."""
    folder = tmp_path / "site"
    for number, data in enumerate(PARTS, start=1):
        module = folder / f"made_up_model_part{number}"
        (module / "data").mkdir(parents=True)
        (module / "__init__.py").write_text("raise ImportError('nothing of a package is to be run')")
        (module / "data" / f"part{number:02}.bin").write_bytes(data)
        described = folder / f"made_up_model_part{number}-0.2.0.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: made-up-model-part{number}\nVersion: 0.2.0\n"
        )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(packaged, "_NAME", "made-up-model-part")
    monkeypatch.setattr(packaged, "_PARTS", len(PARTS))
    monkeypatch.setattr(packaged, "SIZE", len(WHOLE))
    monkeypatch.setattr(packaged, "SHA256", hashlib.sha256(WHOLE).hexdigest())
    return folder


def refusal(lines=None):
    with pytest.raises(CourseError) as caught:
        packaged.assemble(report=(lines if lines is not None else []).append)
    return str(caught.value)


def left():
    """Return the names of what lies in the folder of the file, beside its lock."""
    return {file.name for file in packaged.gguf_file().parent.glob("*") if file.suffix != ".lock"}


def test_the_slices_are_joined_once(site):
    lines = []
    assert packaged.assemble(report=lines.append).read_bytes() == WHOLE
    assert packaged.locate() == packaged.gguf_file()
    assert left() == {packaged.gguf_file().name}
    assert "3 个软件包" in lines[0] and "已准备好" in lines[1] and len(lines) == 2
    shutil.rmtree(site)  # and the packages are not needed any more
    assert packaged.assemble(report=lines.append).read_bytes() == WHOLE
    assert len(lines) == 2


def test_without_the_file_the_command_is_named(site):
    with pytest.raises(CourseError, match=r"make teacher.*provider=offline"):
        packaged.locate()


def test_a_missing_package_is_named(site):
    shutil.rmtree(site / "made_up_model_part2-0.2.0.dist-info")
    assert "没有安装软件包 made-up-model-part2（共要 3 个）。请运行 make teacher" in refusal()
    assert not packaged.gguf_file().parent.exists()


def test_a_package_of_another_version_is_named(site):
    file = site / "made_up_model_part3-0.2.0.dist-info" / "METADATA"
    file.write_text(file.read_text().replace("0.2.0", "0.3.0"))
    assert "made-up-model-part3 的版本是 0.3.0，应当是 0.2.0" in refusal()


def test_a_package_without_its_slice_is_named(site):
    (site / "made_up_model_part1" / "data" / "part01.bin").unlink()
    assert "made-up-model-part1 里没有 part01.bin" in refusal()


def test_a_slice_that_was_cut_is_noticed(site):
    file = site / "made_up_model_part2" / "data" / "part02.bin"
    file.write_bytes(PARTS[1][:-1])
    assert "共 3,005 字节，应当是 3,006" in refusal()
    assert left() == set()
    file.write_bytes(PARTS[1])
    assert packaged.assemble(report=[].append).read_bytes() == WHOLE


def test_another_content_is_thrown_away(site):
    file = site / "made_up_model_part2" / "data" / "part02.bin"
    file.write_bytes(bytes(len(PARTS[1])))
    assert f"应当是 {packaged.SHA256[:12]}…：已经丢弃" in refusal()
    assert left() == set()


def test_a_disk_that_fills_is_named_and_nothing_is_left(site, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refusal() and left() == set()


def test_too_little_space_is_told_before_anything_is_written(site, monkeypatch):
    free = shutil.disk_usage(site)._replace(free=len(WHOLE) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    lines = []
    assert re.search(r"磁盘空间不够.*TIANJI_MODELS_DIR", refusal(lines)) and not lines and left() == set()


def test_what_a_killed_run_left_goes(site):
    """The process dies before it can clean up; the part has a random name."""
    script = (
        "import os, sys\n"
        "from tianji_helpers import records\n"
        "with records.atomic_writer(sys.argv[1], binary=True) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, packaged.gguf_file()])
    assert len(left()) == 2
    packaged.assemble(report=[].append)
    assert left() == {packaged.gguf_file().name}


def test_of_two_runs_the_second_finds_what_the_first_made(site, monkeypatch):
    @contextmanager
    def after_another(_):
        packaged.gguf_file().write_bytes(WHOLE)
        yield

    monkeypatch.setattr(locks, "alone", after_another)
    lines = []
    assert packaged.assemble(report=lines.append).read_bytes() == WHOLE and not lines


def test_the_list_for_pip_is_what_the_module_expects():
    from tianji_helpers.paths import ROOT

    lines = (ROOT / "requirements-teacher.txt").read_text(encoding="utf-8").splitlines()
    wanted = [f"{packaged._NAME}{number}=={packaged._VERSION}" for number in range(1, packaged._PARTS + 1)]
    assert [line for line in lines if not line.startswith("#")] == wanted
