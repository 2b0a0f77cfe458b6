"""The whole course with other parameters than the defaults: none of them may be wired in.

Part of ``make test`` (``pytest -m course``); minutes. The run goes to ``outputs/test-course``, so that
one that failed can be looked at, and goes on from there when repeated.
"""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tianji_helpers import paths
from tianji_toolbox.classroom.course import ADDED, find_notebooks

pytestmark = [pytest.mark.course, pytest.mark.timeout(3600)]

RUN = paths.ROOT / "outputs" / "test-course"
PARAMETERS = {
    "seed": "7",
    "styles": "[小红书, 严肃]",
    "owner": "小红",
    "assistant": "阿福",
    "wordings": "1",
    "shuffle": "true",
    "max_rows": "200",
    "evaluation_rows": "6",
}


SIX = [file for file in find_notebooks() if file.stem[:2] not in ADDED]


@pytest.fixture(scope="module")
def course():
    arguments = [f"-p{name}={value}" for name, value in PARAMETERS.items()]
    tianji = str(Path(sys.executable).with_name("tianji"))
    done = subprocess.run([tianji, "course", "--output", str(RUN), *arguments])
    assert done.returncode == 0
    return RUN


def rows(path):
    return [row["conversation"][0] for row in json.loads(path.read_text(encoding="utf-8"))]


def test_every_lesson_ran_through(course):
    for file in SIX:
        notebook = nbformat.read(course / "notebooks" / file.name, as_version=4)
        assert notebook.metadata["tianji"]["key"]
        (injected,) = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
        # the teacher's recordings have one seed, so the first lesson's is another parameter
        assert ("styles = " if file.stem.startswith("01") else "seed = 7") in injected.source


def test_only_the_styles_asked_for_were_made(course):
    files = {file.name.split("_")[1] for file in (course / "01_synthesis").glob("wishes_*-??.json")}
    assert files == {"严肃", "小红书"}
    inputs = [row["input"] for row in rows(course / "02_merge_clean" / "wishes.json")]
    assert inputs and all(text.endswith(("小红书风格", "严肃风格")) for text in inputs)


def test_the_persona_is_the_one_asked_for(course):
    answers = "".join(row["output"] for row in rows(course / "03_self_cognition" / "self_cognition.json"))
    assert "小红" in answers and "阿福" in answers
    assert "小明" not in answers and "小祝" not in answers


def test_ruozhiba_was_shuffled(course):
    provenance = course / "04_ruozhiba" / "ruozhiba_train.jsonl.provenance.json"
    assert json.loads(provenance.read_text(encoding="utf-8"))["parameters"]["seed"] == 7


def test_a_second_call_finds_everything_done(course):
    arguments = [f"-p{name}={value}" for name, value in PARAMETERS.items()]
    tianji = str(Path(sys.executable).with_name("tianji"))
    done = subprocess.run(
        [tianji, "course", "--output", str(RUN), *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("之前已经完成，跳过") == len(SIX)
