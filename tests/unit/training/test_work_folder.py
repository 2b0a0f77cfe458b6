"""The work folder of a training: what it may touch, and how an earlier training makes room and comes back."""

import pytest

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import work_folder

RUN = "20261128_101500"


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("2024_1学期", "3_2班", "20240101_120000", "earlier"):
        (folder / name).mkdir()
        (folder / name / "a.txt").write_text("private")
    (folder / "notes.txt").write_text("private")
    return folder


def contents(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def train(work_dir, text, checkpoint=True):
    """Leave what XTuner leaves."""
    work_folder.begin(work_dir, "config.py", {"config": text})
    (work_dir / RUN).mkdir()
    files = ["config.py", "samples.jsonl", "train.log", f"{RUN}/{RUN}.log"]
    if checkpoint:
        files += ["iter_1.pth", "best_validation_loss_iter_1.pth", "last_checkpoint"]
        (work_dir / "iter_2.pth").mkdir()  # as DeepSpeed does
        files.append("iter_2.pth/weights.pt")
    for name in files:
        (work_dir / name).write_text(text)


def test_an_earlier_training_goes_when_the_new_one_stands_and_nothing_else(work_dir):
    private = contents(work_dir)
    train(work_dir, "one")
    train(work_dir, "two")
    assert sum(text == "one" for text in contents(work_dir).values()) == 8  # not yet
    work_folder.end(work_dir, "config.py")
    left = contents(work_dir)
    assert "one" not in left.values() and list(left.values()).count("two") == 8
    assert {name: left[name] for name in private} == private


def test_what_somebody_put_among_the_results_of_a_training_is_kept_when_it_goes(work_dir):
    train(work_dir, "one")
    assert work_folder.end(work_dir, "config.py") == []
    for name in ("iter_900.pth", f"{RUN}/mine.txt", "config.py"):
        (work_dir / name).write_text("mine")
    train(work_dir, "two")
    kept = work_folder.end(work_dir, "config.py")
    assert kept == [f"{RUN}.kept-1", "config.py.kept-1", "iter_900.pth.kept-1"]
    left = contents(work_dir)
    assert sum(text == "mine" for text in left.values()) == 3 and list(left.values()).count("two") == 8
    assert [name for name, text in left.items() if text == "one"] == [f"{RUN}.kept-1/{RUN}.log"]
    train(work_dir, "three")
    assert work_folder.end(work_dir, "config.py") == []
    assert not (work_dir / ".earlier-trainings").exists()


@pytest.mark.parametrize("mark", [None, "[]", "{"])
@pytest.mark.parametrize("ours", [True, False])
def test_a_training_that_goes_on_without_its_mark_ends_all_the_same(work_dir, mark, ours):
    train(work_dir, "one")
    (work_dir / work_folder.MARK).unlink()
    if mark:
        (work_dir / work_folder.MARK).write_text(mark)
    if ours:  # known by its provenance, as before there was a mark
        records.write_provenance(work_dir, stage="05_training", parameters={})
    assert work_folder.end(work_dir, "config.py") == []
    assert work_folder.is_ours(work_dir) == ours
    assert list(contents(work_dir).values()).count("one") == 8


def test_what_was_set_aside_comes_back_and_the_log_of_the_failure_stays(work_dir):
    train(work_dir, "one")
    before = contents(work_dir)
    train(work_dir, "two", checkpoint=False)
    assert work_folder.put_back(work_dir, "config.py")
    assert contents(work_dir) == before | {"failed.log": "two"}
    assert not work_folder.put_back(work_dir, "config.py")


def test_a_training_with_a_checkpoint_is_kept_until_one_stands(work_dir):
    for text in ("one", "two"):  # the second one failed after its first checkpoint
        train(work_dir, text)
    before = contents(work_dir)
    train(work_dir, "three", checkpoint=False)
    work_folder.put_back(work_dir, "config.py")
    assert contents(work_dir) == before | {"failed.log": "three"}
    train(work_dir, "four")
    work_folder.end(work_dir, "config.py")
    assert {*contents(work_dir).values()} - {"private"} >= {"four"}
    assert not {"one", "two", "three"} & {*contents(work_dir).values()}


@pytest.mark.parametrize(
    "name",
    ["iter_50.pth", "best_loss_iter_4.pth", "last_checkpoint", "train.log", "samples.jsonl", "config.py"],
)
def test_what_no_training_of_ours_made_is_in_the_way(work_dir, name):
    (work_dir / name).write_text("x")
    before = contents(work_dir)
    with pytest.raises(CourseError, match=f"work 里已经有 {name}.*不覆盖也不删除"):
        work_folder.begin(work_dir, "config.py", {})
    assert contents(work_dir) == before


def test_a_work_folder_of_the_course_without_a_mark_is_known_by_its_provenance(work_dir):
    (work_dir / "iter_50.pth").write_text("old")
    records.write_provenance(work_dir, stage="05_training", parameters={})
    train(work_dir, "new")
    work_folder.end(work_dir, "config.py")
    assert "old" not in contents(work_dir).values()


def test_a_training_that_cannot_make_room_leaves_the_earlier_one_in_its_place(work_dir, monkeypatch):
    train(work_dir, "one")
    before = contents(work_dir)
    rename, moved = work_folder.Path.rename, []

    def fail(path, target):
        moved.append(path)
        if len(moved) == 4:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(work_folder.Path, "rename", fail)
    with pytest.raises(CourseError, match=r"写不了 .*work：No space left on device"):
        train(work_dir, "two")
    assert contents(work_dir) == before
    assert not (work_dir / ".earlier-trainings").exists()


def test_what_a_kill_left_half_aside_comes_back_whole(work_dir):
    train(work_dir, "one")
    before = contents(work_dir)
    aside = work_dir / ".earlier-trainings" / "1"
    aside.mkdir(parents=True)
    for name in ("config.py", "iter_1.pth", "iter_2.pth"):
        (work_dir / name).rename(aside / name)
    assert work_folder.put_back(work_dir, "config.py")
    assert contents(work_dir) == before


def test_half_a_checkpoint_goes_before_a_training_goes_on_and_nothing_else(work_dir):
    train(work_dir, "one")
    before = contents(work_dir)
    half = [".iter_3.pth.abc1_2.part", ".best_validation_loss_iter_3.pth.x.part"]
    for name in (*half, ".notes.txt.abc.part"):
        (work_dir / name).write_text("half")
    work_folder.go_on(work_dir)
    assert contents(work_dir) == before | {".notes.txt.abc.part": "half"}
