"""The two READMEs: the same commands; theirs and CONTRIBUTING's commands, links and files exist."""

import argparse
import re
import shlex
from importlib.util import find_spec

import nbformat
import pytest

from tianji_helpers.parameters import defaults
from tianji_helpers.paths import ROOT
from tianji_toolbox import cli
from tianji_toolbox.classroom.course import find_notebooks

TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")}


def commands(text):
    """Return the command lines of the shell blocks, comments taken off."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = (line.partition("  #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


ALL_COMMANDS = commands(TEXTS["README.md"])
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ALL_TEXTS = TEXTS | {"CONTRIBUTING.md": CONTRIBUTING}


def test_both_languages_give_the_same_commands():
    assert commands(TEXTS["README.zh-CN.md"]) == ALL_COMMANDS
    assert ALL_COMMANDS[:2] == ["make course", "make test"]


def test_both_languages_have_the_same_sections_figures_and_links():
    english, chinese = TEXTS.values()
    for pattern in (r"^(#+) ", r"^\d+\. ", r"^(\|)", r"@@\w+@@", r"(`tianji [a-z-]+`)"):
        assert re.findall(pattern, english, re.MULTILINE) == re.findall(pattern, chinese, re.MULTILINE), (
            pattern
        )
    links = [set(re.findall(r"\]\((\S+?)\)", text)) - set(TEXTS) for text in TEXTS.values()]
    assert links[0] == links[1]


@pytest.mark.parametrize(
    "line", [line for line in ALL_COMMANDS + commands(CONTRIBUTING) if re.match(r"(\S*/)?tianji ", line)]
)
def test_the_command_line_takes_it(line):
    words = shlex.split(line)
    args = cli.build_parser().parse_args(words[1:])
    assert isinstance(args, argparse.Namespace) and args.run


@pytest.mark.parametrize("text", ALL_TEXTS.values(), ids=ALL_TEXTS)
def test_make_knows_its_targets(text):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|&& )make (?:PYTHON=\S+ )?([a-z]+)", text, re.MULTILINE))
    assert {"course", "test", "lab"} <= named <= targets


@pytest.mark.parametrize("text", ALL_TEXTS.values(), ids=ALL_TEXTS)
def test_its_links_and_files_exist(text):
    for link in re.findall(r'(?:\]\(|<img src=")(?!https?://)([^\s")]+)', text):
        assert (ROOT / link).exists(), link
    for name in re.findall(
        r"`((?:(?:notebooks|tianji_helpers|configs|data)/|requirements[.-])[\w./-]*)`", text
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_its_parameters_exist(text):
    known = {}
    for file in find_notebooks():
        known[int(file.stem[:2])] = defaults(nbformat.read(file, as_version=4), file.name)
    for name in re.findall(r"-p \"?(\w+)=", text):
        assert any(name in values for values in known.values()), name
    table = re.findall(r"^\| ([\d, 、]+|all|全部) \| (`.*?`) \|", text, re.MULTILINE)
    assert len(table) == 9
    for lessons, names in table:
        for lesson in map(int, re.findall(r"\d", lessons) or known):
            assert set(re.findall(r"\w+", names)) <= known[lesson].keys(), names


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_measured_figure_is_filled_in(text):
    assert not re.findall(r"@@\w+@@", text)


def test_what_contributors_run_exists():
    for line in commands(CONTRIBUTING):
        for words in map(shlex.split, line.split(" && ")):
            if words[0] == "pytest":
                assert all((ROOT / name).exists() for name in words[1:]), line
            elif words[:2] == ["python", "-m"]:
                assert find_spec(words[2]), line
            else:
                assert words[0] in ("make", "tianji", "ruff", "mypy", "source"), line
