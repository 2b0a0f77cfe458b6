"""The report of folders that somebody edited, and of notebooks that carry scripts."""

import json
import os
import re
import shutil
from html.parser import HTMLParser

import nbformat
import pytest

from tianji_helpers import records
from tianji_helpers.seeing import measure
from tianji_toolbox import cli
from tianji_toolbox.classroom import batch_metrics, gradebook, report

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
STATUS = {"name": "seed=1", "status": "done", "minutes": 1.5, "peak_memory_gb": 1.0}
TASK = {
    "loss": {"before": 4.5, "after": 1.2},
    "scores": {"没有硬伤": ["0%", "75%"]},
    "curve": [[1, 4.0], [2, 2.0]],
    "answers": [{"request": "祝姐姐生日", "before": "祝你", "after": "姐姐快乐"}],
}


def output(data, metadata=None):
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


def write_notebook(folder, name="quick", outputs=(), **more):
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": "1",
        "execution_count": 1,
        "outputs": list(outputs),
    }
    book = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell | more]}
    (folder / f"{name}.ipynb").write_text(json.dumps(book), encoding="utf-8")


@pytest.fixture
def batch(tmp_path):
    """A batch's folder with one run, made by hand."""
    run = tmp_path / "batch" / "runs" / "seed=1"
    (run / "notebooks").mkdir(parents=True)
    folder = run.parents[1]
    (folder / "batch.json").write_text(
        json.dumps({"title": "题目", "runs": [{"name": "seed=1", "chosen": {"seed": 1}}]})
    )
    (run / "status.json").write_text(json.dumps(STATUS))
    (run / "metrics.json").write_text(json.dumps({"steps": [], "tasks": {"wishes": TASK}}))
    write_notebook(run / "notebooks")
    return folder


def page_of(batch):
    assert cli.main(["report", str(batch)]) == 0
    return (batch / report.NAME).read_text(encoding="utf-8")


def test_a_whole_folder_is_shown(batch):
    text = page_of(batch)
    assert "4.50 → 1.20" in text and "0% → 75%" in text and "姐姐快乐" in text
    assert 'href="pages/seed%3D1/quick.html"' in text


def test_what_lesson_7_measured_stands_with_its_controls(batch):
    run = batch / "runs" / "seed=1"
    lines = {}
    for stage, hits in {"first": 12, "second": 15}.items():
        lines[stage] = [
            {"part": part, "control": control, "caption": measure.share([1] * right + [0] * (16 - right))}
            for part, control, right in (
                ("held_out", "", hits),
                ("held_out", "shuffled", 1),
                ("held_out", "blank", 0),
                ("unseen", "", hits - 4),
            )
        ]
    share = measure.share([1] * 9 + [0] * 7)
    lines["second"][0] |= {"wish": share, "scores": {"faultless": share, "quality": share}}
    records.write_json(run / "07_see_wish" / "comparison.json", lines)
    records.write_json(run / "metrics.json", {"steps": [], **batch_metrics.gather(run)})
    text = page_of(batch)
    assert re.search(r'"说对场景（一 → 两个阶段）">75% \[.*?\] → 94% \[', text)
    assert re.search(r'"· 洗牌">6% \[.*?\] → 6% \[', text) and '"· 白卡">0%' in text
    assert '"质量">— → 0.56' in text and '"测试损失"></td>' in text
    records.write_json(run / "07_see_wish" / "comparison.json", [])
    assert batch_metrics.gather(run) == {"tasks": {}, "unreadable": ["07_see_wish/comparison.json"]}


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"title": "x"}',
        '{"title": "x", "runs": "abc"}',
        '{"title": "x", "runs": [{"name": "../../other", "chosen": {}}]}',
        '{"title": "x", "runs": [{"name": "/etc", "chosen": {}}]}',
        '{"title": "x", "runs": [{"name": "..", "chosen": {}}]}',
        '{"title": "x", "runs": [{"name": 5}]}',
        '{"a":' * 100_000,
        "",
    ],
)
def test_a_damaged_list_of_runs_is_an_error(content, batch, capsys):
    (batch / "batch.json").write_text(content)
    assert cli.main(["report", str(batch)]) == 1
    assert "batch.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("status.json", STATUS | {"status": "evil"}),
        ("status.json", STATUS | {"minutes": "x"}),
        ("status.json", STATUS | {"status": "error", "cell": "x", "notebook": "quick"}),
        ("status.json", STATUS | {"status": "error", "cell": -5, "notebook": "quick"}),
        ("status.json", STATUS | {"status": "error", "cell": 0, "notebook": "quick"}),
        ("status.json", STATUS | {"status": "error", "cell": 10**9, "notebook": "quick"}),
        ("status.json", []),
        ("metrics.json", []),
        ("metrics.json", {"tasks": [1]}),
        *(
            ("metrics.json", {"tasks": {"wishes": TASK | change}})
            for change in (
                {"loss": {"before": None, "after": 1}},
                {"loss": {}},
                {"curve": [["a", "b"]]},
                {"curve": [[1]]},
                {"answers": [5]},
                {"scores": 7},
            )
        ),
        ("notebooks/quick.ipynb", {"cells": [{}], "nbformat": 4, "nbformat_minor": 4, "metadata": {}}),
        ("notebooks/quick.ipynb", {"cells": 5}),
        ("notebooks/quick.ipynb", []),
    ],
)
def test_a_damaged_file_of_a_run_counts_as_not_there(name, content, batch):
    (batch / "runs" / "seed=1" / name).write_text(json.dumps(content))
    assert "题目" in page_of(batch)


HALF = "\ud83d"  # of an emoji
RUN = "runs/seed=1"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("batch.json", {"title": f"题目{HALF}", "runs": [{"name": "seed=1", "chosen": {"a": HALF}}]}),
        (f"{RUN}/status.json", STATUS | {"status": "error", "reason": HALF, "notebook": "quick", "cell": 1}),
        *(
            (f"{RUN}/metrics.json", {"tasks": tasks})
            for tasks in (
                {f"a$b_$ {HALF}\0": TASK},
                {r"$\frac{": TASK},
                {"": TASK},
                {"w": TASK | {"curve": [[1e308, 1e308], [-1e308, -1e308]]}},
                {"w": TASK | {"curve": [[1, float("nan")], [2, float("inf")], [3, 1.0]]}},
                {"w": TASK | {"loss": {"before": 1e308, "after": float("nan")}}},
                {"w": TASK | {"answers": [{"request": HALF, "before": HALF, "after": HALF}]}},
                {"w": TASK | {"scores": {HALF: [HALF, HALF]}}},
            )
        ),
        (
            f"{RUN}/notebooks/quick.ipynb",
            {
                "nbformat": 4,
                "nbformat_minor": 4,
                "metadata": {},
                "cells": [{"cell_type": "markdown", "metadata": {}, "source": HALF}],
            },
        ),
    ],
)
def test_odd_characters_and_numbers_are_shown_as_well_as_may_be(name, content, batch):
    (batch / name).write_text(json.dumps(content))
    assert "题目" in page_of(batch)


@pytest.mark.parametrize(
    "name", [f"{RUN}/status.json", f"{RUN}/metrics.json", f"{RUN}/notebooks/x.ipynb", gradebook.TABLE]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to itself", "link to a device"])
def test_what_is_no_file_counts_as_not_there(name, kind, batch):
    place = batch / name
    place.unlink(missing_ok=True)
    make = {
        "pipe": lambda: os.mkfifo(place),  # who reads it would wait for ever
        "folder": place.mkdir,
        "link to itself": lambda: place.symlink_to(place),
        "link to a device": lambda: place.symlink_to("/dev/zero"),
    }
    make[kind]()
    assert "题目" in page_of(batch)


def test_pages_that_somebody_changed_are_kept(batch, capsys):
    page_of(batch)
    page_of(batch)
    files = [batch / report.NAME, batch / "pages" / "seed=1" / "quick.html"]
    assert not list(batch.rglob("*.kept-*"))
    for file in files:
        file.write_text("mine")
        os.utime(file, (1, 1))
    assert "题目" in page_of(batch) and "留作 report.html.kept-1" in capsys.readouterr().out
    assert [file.with_name(f"{file.name}.kept-1").read_text() for file in files] == ["mine"] * 2


@pytest.mark.parametrize("name", ["batch.json", "report.html", "pages", "pages/seed=1", "runs", RUN])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_thing_in_a_place_is_named_or_passed_over(name, kind, batch, capsys):
    place = batch / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if kind == "folder" else place.write_text("x")
    status, said = cli.main(["report", str(batch)]), capsys.readouterr().err
    assert status == 0 or (status == 1 and said.startswith("错误：") and said.count("\n") == 1), said


@pytest.mark.parametrize("name", ["pages", "pages/seed=1"])
def test_no_page_is_written_through_a_link(name, batch, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (batch / name).parent.mkdir(exist_ok=True)
    (batch / name).symlink_to(tmp_path / "elsewhere")
    assert cli.main(["report", str(batch)]) == 1
    assert "符号链接" in capsys.readouterr().err and not list((tmp_path / "elsewhere").iterdir())


def test_a_text_that_takes_for_ever_to_convert_is_cut(batch):
    """Of 200,000 brackets nbconvert looks from each to the end."""
    file = batch / RUN / "notebooks" / "quick.ipynb"
    cell = {"cell_type": "markdown", "metadata": {}, "source": "[" * 2_000_000}
    book = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell]}
    file.write_text(json.dumps(book), encoding="utf-8")
    page_of(batch)
    page = batch / "pages" / "seed=1" / "quick.html"
    assert page.stat().st_size < 1_000_000 and "太长，后面的没有显示" in page.read_text(encoding="utf-8")


def test_a_failed_cell_is_shown_as_it_was_and_cut_with_a_sign(batch):
    """Whether its notebook's page is made now or was there: the report is the same."""
    run = batch / "runs" / "seed=1"
    failed = {"status": "error", "notebook": "quick", "cell": 1, "reason": "r"}
    (run / "status.json").write_text(json.dumps(STATUS | failed))
    write_notebook(run / "notebooks", source="x = 0\n" + "x += 1  # attachment:a\n" * 10_000)
    first, again = page_of(batch), page_of(batch)
    assert first == again and "x += 1  # attachment:a" in first
    assert len(first) < 100_000 and "太长，后面的没有显示" in first


@pytest.mark.parametrize(
    "text", ["", "a,b\nx\n", "a\0b\nx,1,2,y\n", "a,b,c,d\nx,1,2," + "y" * 200_000, "\udcff"]
)
def test_damaged_grades_are_passed_over(text, batch):
    (batch / gradebook.TABLE).write_bytes(text.encode(errors="surrogateescape"))
    page_of(batch)


class Look(HTMLParser):
    """What would run, or fetch something, in a page: (tag, attribute)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            addressed = name in ("href", "src", "action") and re.match(
                r"\s*(javascript:|data:text)", value or ""
            )
            if name.startswith("on") or addressed or "evil.invalid" in (value or ""):
                self.found.append((tag, name))


@pytest.mark.parametrize(
    "outputs",
    [
        [output({"image/png": "QUJD"}, {"image/png": {"width": "1 onerror=alert(1)"}})],
        [output({"image/jpeg": "x' onerror='alert(1)"})],
        [output({"image/png": ["x' onerror='alert(1)"]})],
        [output({"image/png": "QUJD"}, {"image/png": {"alt": "x' onerror='alert(1)"}})],
        [output({"image/svg+xml": f"<svg onload=alert(1)>{EVIL}</svg>"})],
        [output({"text/vnd.mermaid": f"graph TD; </pre>{EVIL}"})],
        [
            output(
                {"text/html": EVIL + "<a href='javascript:alert(1)'>x</a><form action=javascript:alert(1)>"}
            )
        ],
        [output({"text/markdown": EVIL, "text/latex": f"${EVIL}$"})],
        [output({"application/javascript": "alert(1)", "application/pdf": "x' onerror='alert(1)"})],
        [output({"text/plain": EVIL}), {"output_type": "stream", "name": "stdout", "text": EVIL}],
        [{"output_type": "error", "ename": EVIL, "evalue": EVIL, "traceback": [EVIL]}],
    ],
)
def test_a_converted_notebook_carries_no_script(outputs, batch):
    place = batch / "runs" / "seed=1" / "notebooks"
    tags = {"tags": ['x" onmouseover="alert(1)']}
    write_notebook(place, "evil", outputs, source=f"</pre>{EVIL}", metadata=tags)
    for kind in ("markdown", "raw"):
        write_notebook(place, kind, source=f"# h {EVIL}\n[x](javascript:alert(1)) ![y](attachment:y.svg)")
        book = json.loads((place / f"{kind}.ipynb").read_text())
        book["cells"] = [{"cell_type": kind, "metadata": tags, "source": book["cells"][0]["source"]}]
        book["metadata"] = {
            "title": f"</title>{EVIL}",
            "widgets": {"x": {"state": {"a": f"</script>{EVIL}"}}},
        }
        (place / f"{kind}.ipynb").write_text(json.dumps(book))
    page_of(batch)
    for name in ("evil", "markdown", "raw"):
        text = (batch / "pages" / "seed=1" / f"{name}.html").read_text(encoding="utf-8")
        look = Look()
        look.feed(text)
        assert look.found == [], name
        assert "<script>alert" not in text
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
        assert policy and policy.start() < text.index("<script") and "default-src 'none'" in policy[1]
        assert "script-src" not in policy[1]


def test_a_page_that_a_run_left_is_not_shown(batch):
    place = batch / "runs" / "seed=1" / "notebooks"
    (place / "quick.html").write_text(EVIL)
    os.utime(place / "quick.html", (2e9, 2e9))
    assert "notebooks/quick.html" not in page_of(batch)
    assert EVIL not in (batch / "pages" / "seed=1" / "quick.html").read_text(encoding="utf-8")
    made = (batch / "pages" / "seed=1" / "quick.html").stat().st_mtime_ns
    page_of(batch)
    assert (batch / "pages" / "seed=1" / "quick.html").stat().st_mtime_ns == made
    assert nbformat.read(place / "quick.ipynb", as_version=4)


def test_our_own_pages_forbid_scripts_too(batch):
    assert "Content-Security-Policy" in page_of(batch)
    assert "Content-Security-Policy" in gradebook.write([], batch)[1].read_text(encoding="utf-8")
