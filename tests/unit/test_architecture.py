"""The page of the house (tianji_helpers/README.md) against the code: arrows, circles, files that it names."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest

from tianji_helpers.paths import CONFIGS, HELPERS, ROOT, TOOLBOX
from tianji_toolbox.classroom.course import find_notebooks

PAGE = (HELPERS / "README.md").read_text(encoding="utf-8")
GROUND = "ground floor"


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(file): ast.parse(file.read_text(encoding="utf-8"))
    for package in (HELPERS, TOOLBOX)
    for file in sorted(package.rglob("*.py"))
}


def imports(tree: ast.AST) -> set[str]:
    """Return the modules of ours that a program imports, at its top or inside functions.

    What only names types (``if TYPE_CHECKING``) is no import: it never runs.
    """
    found, left = set(), [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # mmengine's configs read each other so
                continue
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inside}
        else:
            left += ast.iter_child_nodes(node)
    return found & MODULES.keys()


EDGES = {name: imports(tree) for name, tree in MODULES.items()}


def drawing() -> tuple[dict[str, str], set[tuple[str, str]]]:
    """Return the rooms of the drawing (id → dotted name), and its arrows between ids."""
    (text,) = re.findall(r"^```mermaid\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    rooms, arrows, package = {}, set(), ""
    for line in map(str.strip, text.splitlines()):
        if found := re.fullmatch(r"subgraph (\w+)", line):
            package = found[1]
        elif found := re.fullmatch(r'(\w+)\["(.+)"\]', line):
            if package:
                rooms[found[1]] = f"{package}.{found[2]}"
        elif found := re.fullmatch(r"(\w+) --> ([\w &]+)", line):
            arrows |= {(found[1], target) for target in found[2].split(" & ")}
        else:
            package = "" if line == "end" else package
    return rooms, arrows


ROOMS, ARROWS = drawing()
IDS = {name: room for room, name in ROOMS.items()}


def room_of(module: str) -> str:
    """Return the id of the room of a module: the longest name of the drawing that its own begins with."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((IDS[name] for name in names if name in IDS), IDS.get(f"{parts[0]}.{GROUND}", parts[0]))


def test_the_drawing_shows_the_arrows_that_there_are():
    between = {(room_of(a), room_of(b)) for a, targets in EDGES.items() for b in targets}
    drawn = {arrow for arrow in ARROWS if set(arrow) <= ROOMS.keys()}
    names = {room: name.partition(".")[0] for room, name in ROOMS.items()}

    def package(room):
        return names.get(room, room)

    assert {(a, b) for a, b in between if a != b and package(a) == package(b)} == drawn
    across = {(package(a), package(b)) for a, b in between if package(a) != package(b)}
    assert (
        across == {("tianji_toolbox", "tianji_helpers")} == {a for a in ARROWS - drawn if a[0] != "lessons"}
    )


def test_no_circle_of_rooms_or_modules():
    TopologicalSorter(EDGES).prepare()  # raises CycleError, which names the circle
    graph = {}
    for start, target in ARROWS:
        graph.setdefault(start, set()).add(target)
    TopologicalSorter(graph).prepare()


def test_imports_are_absolute_so_that_one_sees_where_they_lead():
    nodes = [node for tree in MODULES.values() for node in ast.walk(tree)]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_an_import_inside_a_function_counts_and_one_for_types_does_not():
    inside = "def f():\n    from tianji_helpers import paths\n"
    assert imports(ast.parse(inside)) == {"tianji_helpers.paths"}
    assert not imports(ast.parse("if TYPE_CHECKING:\n    import tianji_helpers.paths\n"))


LESSONS = {
    file.relative_to(ROOT).as_posix(): "\n".join(
        cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"
    )
    for file in [*find_notebooks(), *sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))]
}
# configs/data_juicer is no lesson's: the recipe of cleaning on many machines, which the toolbox serves
RECIPES = {
    file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
    for file in sorted(CONFIGS.rglob("*.py"))
    if file.parent.name not in ("data_juicer", "site")
}


@pytest.mark.parametrize("source", (LESSONS | RECIPES).values(), ids=LESSONS | RECIPES)
def test_lessons_and_configs_import_the_helpers_only(source):
    assert not [name for name in imports(ast.parse(source)) if not name.startswith("tianji_helpers")]


def test_the_helpers_hold_what_lessons_and_configs_reach_and_no_more():
    reached, left = (
        set(),
        [name for text in (LESSONS | RECIPES).values() for name in imports(ast.parse(text))],
    )
    while left:
        name = left.pop()
        parts = name.split(".")
        for inner in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
            if inner not in reached:  # a package runs before what is in it
                reached.add(inner)
                left += EDGES[inner]
    apart = {name for name in MODULES if name.startswith("tianji_helpers")} - reached
    # they serve the toolbox alone and should move there
    assert apart <= {"tianji_helpers.pages", "tianji_helpers.training.estimate"}


def test_every_room_says_in_its_first_lines_what_lives_there():
    folders = {file.parent for package in (HELPERS, TOOLBOX) for file in package.rglob("*.py")}
    for folder in folders:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert len(re.findall(r"[.:;](?=\s|$)", text)) > 1, folder
    assert {module_name(folder) for folder in folders} - {"tianji_helpers", "tianji_toolbox"} <= IDS.keys()


def test_what_the_page_names_exists():
    names = re.findall(r"`((?:configs|data|notebooks|tests|tianji_\w+|training)/[\w./]*)`", PAGE)
    assert len(names) > 30
    for name in names:
        assert (ROOT / name).exists() or (HELPERS / name).exists(), name
    sources = "\n".join(file.read_text(encoding="utf-8") for file in HELPERS.rglob("*.py"))
    for name in ("compute_loss", "AnswerLoss", "answer_losses", "atomic_writer"):
        assert name in PAGE and re.search(rf"(def|class) {name}\b", sources), name
