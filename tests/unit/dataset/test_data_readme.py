"""data/README.md names every data file with the rows that it really has."""

import re

import yaml

from tianji_helpers import paths, records


def count(file) -> int:
    if file.suffix == ".jsonl":
        return len(records.read_jsonl(file))
    if file.name == "requests.txt":
        return len(records.read_text(file).splitlines())
    if file.suffix == ".txt":
        return len(records.read_text(file).split("\n\n"))
    content = yaml.safe_load(records.read_text(file))
    if file.name == "general.yaml":
        return sum(map(len, content.values()))
    if file.name == "persona.yaml":
        parts = ("questions", "validation", "test")
        return sum(len(kind[part]) for kind in content.values() for part in parts)
    return len(content)


def test_rows():
    table = re.findall(r"^\| `(.+?)` \| (\d+) \|", records.read_text(paths.DATA / "README.md"), re.M)
    files = [file for file in paths.DATA.rglob("*") if file.is_file() and file.name != "README.md"]
    assert {name: int(rows) for name, rows in table} == {
        file.relative_to(paths.DATA).as_posix(): count(file) for file in files
    }
