"""What every notebook of the course keeps to, so that it runs anywhere and reads well."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from tianji_helpers.parameters import defaults
from tianji_helpers.paths import NOTEBOOKS, ROOT
from tianji_toolbox.classroom import refresh

NAMES = (
    "01_synthesize_wishes",
    "02_merge_clean",
    "03_make_self_cognition",
    "04_convert_ruozhiba",
    "05_train_qlora",
    "06_merge_chat",
    "07_see_and_wish",
)
START = "README.md"

ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:root|home|Users|work|mnt|data|tmp|opt|var)/[\w.-]")
SECRET = re.compile(r"\bsk-[A-Za-z0-9]{16,}|\b[0-9a-f]{32}\.[A-Za-z0-9]{16}\b|\bhf_[A-Za-z]{20,}")
MACHINE = re.compile(r"\d+(?:\.\d+)?it/s|\bs/it\]")


@pytest.fixture(params=NAMES)
def file(request):
    return NOTEBOOKS / f"{request.param}.ipynb"


@pytest.fixture
def notebook(file):
    return nbformat.read(file, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Yield every text that a cell printed or showed."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def test_the_course_has_these_notebooks():
    assert tuple(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))) == NAMES


def test_it_is_valid_and_small(file, notebook):
    nbformat.validate(notebook)
    assert file.stat().st_size < 500_000


def test_it_was_run_once_in_order_without_an_error(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs, "nbval passes over a notebook without outputs"
    assert not [output for output in outputs if output.output_type == "error"]


def test_parameters_are_one_cell_of_commented_literals(file, notebook):
    values = defaults(notebook, file.name)  # raises unless it is one cell of literals
    assert next(iter(values)) == "output_dir" and values["output_dir"] == ""
    assert values["prompt_seed" if file.stem.startswith("01") else "seed"] == 42
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for statement in ast.parse(cell.source).body:
        lines = cell.source.splitlines()[statement.lineno - 1 : statement.end_lineno]
        assert any("#" in line for line in lines), f"no comment: {lines}"


def test_the_next_cell_checks_them_before_anything_else(file, notebook):
    cells = code_cells(notebook)
    (place,) = (n for n, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    body = ast.parse(cells[place + 1].source).body
    first = next(statement for statement in body if not isinstance(statement, ast.Import | ast.ImportFrom))
    assert ast.unparse(first) == f"globals().update(parameters.checked({file.stem[:2]!r}, globals()))"


def test_papermill_sees_the_same_parameters(file, notebook):
    # its inspection overlooks a line with a second "=", in a comment too
    assert set(papermill.inspect_notebook(file)) == set(defaults(notebook, file.name))


def test_a_parameter_of_one_name_means_one_thing_everywhere():
    # `tianji course -p NAME=VALUE` gives the value to every notebook that has the name

    seen = {}
    for path in sorted(NOTEBOOKS.glob("0*.ipynb")):
        for name, value in defaults(nbformat.read(path, as_version=4), path.name).items():
            assert seen.setdefault(name, value) == value, f"{path.name}: {name}"


def test_cells_are_short_and_have_prose_before_them(notebook):
    before = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.source
            assert before is not None, "a notebook starts with prose"
        before = cell


def test_nothing_installs_asks_or_names_a_machine(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
            assert not re.search(r"\b(?:getpass|input)\(", cell.source), cell.source
        for text in (cell.source, *(texts(cell) if cell.cell_type == "code" else ())):
            assert not ABSOLUTE_PATH.search(text), text
            assert not SECRET.search(text), text


def test_outputs_hold_no_noise(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.metadata
        for text in texts(cell) if cell.cell_type == "code" else ():
            assert not re.search(r"Glyph \d+ .* missing|Warning:", text), text
            if "nbval-ignore-output" not in cell.metadata.get("tags", []):
                assert not MACHINE.search(text), text


def test_pictures_stand_in_cells_that_are_not_compared(notebook):
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert "nbval-ignore-output" in cell.metadata.get("tags", []), cell.source


def test_nothing_was_written_to_standard_error(notebook):
    streams = [output for cell in code_cells(notebook) for output in cell.outputs if "name" in output]
    assert not [output.text for output in streams if output.name == "stderr"]


def test_outputs_hold_no_passing_time(notebook):
    for cell in code_cells(notebook):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            for text in (output.get("text", "") for output in cell.outputs):
                assert not [pattern for pattern, _ in refresh.PASSING if pattern.search(text)], text


def test_something_is_compared_and_checked(notebook):
    compared = [c for c in code_cells(notebook) if "nbval-ignore-output" not in c.metadata.get("tags", [])]
    assert any(cell.outputs for cell in compared)
    assert any(re.search(r"^\s*assert ", cell.source, re.MULTILINE) for cell in compared)


def test_links_lead_somewhere(file, notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    for link in links:
        if not link.startswith(("http://", "https://", "#")):
            target = (file.parent / link.partition("#")[0]).resolve()
            assert target.exists() and target.is_relative_to(ROOT), link


def test_its_first_and_last_lines_lead_to_the_neighbours_and_the_start_page(file, notebook):
    position = NAMES.index(file.stem)
    neighbours = [name for name in NAMES[max(position - 1, 0) : position + 2] if name != file.stem]
    ways = [START, *(f"{name}.ipynb" for name in neighbours)]
    for line in (notebook.cells[0].source.splitlines()[2], notebook.cells[-1].source.splitlines()[-1]):
        assert re.findall(r"\]\(([^)\s]+)\)", line) == ways, line


def test_it_opens_and_closes_like_a_lesson(file, notebook):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    for section in ("小结", "常见错误", "延伸阅读"):
        assert f"## {section}\n" in last.source, section
    assert first.source.startswith(f"# 第 {int(file.stem[:2])} 课")
    assert "学完你能" in first.source
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for section in ("小结", "练习", "先猜一猜"):
        assert section in prose, section


def prose(notebook):
    """Return what a lesson tells, its exercises aside, and its lines of code."""
    told = [cell for cell in notebook.cells if not cell.id.startswith("exercise-")]
    code = "\n".join(cell.source for cell in told if cell.cell_type == "code")
    text = "\n".join(cell.source for cell in told if cell.cell_type == "markdown")
    return text, [line for line in code.splitlines() if line.strip()]


def test_the_reading_time_is_true_and_the_start_page_says_the_same(file, notebook):
    text, code = prose(notebook)
    minutes = len(re.findall("[\u4e00-\u9fff]", text)) / 300 + len(code) / 15
    stated, run = re.search(r"阅读 (\d+) 分钟，运行 ?([^（]+)（", notebook.cells[0].source).groups()
    assert abs(int(stated) - minutes) <= max(1, 0.1 * minutes), f"{stated} instead of {minutes:.1f}"
    (row,) = [line for line in start_page().splitlines() if f"]({file.name}) |" in line]
    assert row.endswith(f" | {stated} 分钟 | {run} |"), row


def start_page():
    return (NOTEBOOKS / START).read_text(encoding="utf-8")


def test_every_term_of_the_start_page_is_explained_once_where_it_says():
    texts = {name: prose(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))[0] for name in NAMES}
    listed = re.findall(r"^- \[第 \d 课\]\((\w+)\.ipynb\)：(.+)$", start_page(), re.MULTILINE)
    assert [name for name, _ in listed] == list(NAMES)
    for lesson, terms in listed:
        for term in terms.split("、"):
            bold = re.compile(rf"\*\*{re.escape(term)}(?:（[^*]*）)?\*\*")
            assert [name for name in NAMES for _ in bold.findall(texts[name])] == [lesson], term


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (ABSOLUTE_PATH, "model = '/root/models/x'"),
        (ABSOLUTE_PATH, "写到 /home/student/out"),
        (SECRET, "key = 'sk-" + "a1" * 12 + "'"),
        (SECRET, "0123456789abcdef" * 2 + "." + "Ab1" * 5 + "z"),
        (MACHINE, "100%|█| 3/3 [00:01<00:00, 2.90it/s]"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern, text):
    assert pattern.search(text)
    assert not pattern.search(
        "outputs/default/05_training，data/wishes/styles.yaml，https://example.org/data/x"
    )


def test_it_is_named_for_its_stage():
    from tianji_helpers.paths import STAGES

    assert [name[:2] for name in NAMES] == [stage[:2] for stage in STAGES]
    assert all(Path(name).stem.isascii() for name in NAMES)
