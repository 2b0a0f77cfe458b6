"""Build the pages (`make site`): ``python build.py FOLDER``.

What is read is copied into one folder, in the places it has in the repository, so that relative
links lead where they lead there; the start page gets the table of contents. The pages of the packages are
made from their docstrings (``api.py``).
"""

import shutil
import sys
import tempfile
from pathlib import Path

import api
from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOP = (
    *("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE"),
    "tianji_helpers/README.md",
)
FOLDERS = ("notebooks", "data", "configs", "tests/pages/screenshots")


def build(target: Path) -> int:
    """Write the pages into ``target``, anew; return Sphinx's exit status. Warnings are errors.

    An earlier result goes; Sphinx leaves ``.buildinfo`` in what it has made.
    """
    if target.exists() and any(target.iterdir()) and not (target / ".buildinfo").is_file():
        sys.exit(f"错误：{target} 里有别的东西，不会删掉。请换一个文件夹。")
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        shutil.copytree(HERE / "locales", source / "locales")
        for file in TOP:
            (source / file).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / file, source / file)
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, source / folder)
        api.write(ROOT, source / "api")
        with (source / "notebooks" / "README.md").open("a", encoding="utf-8") as start:
            start.write("\n" + (HERE / "contents.md").read_text(encoding="utf-8"))
        shutil.rmtree(target, ignore_errors=True)
        options = ["-q", "-W", "--keep-going", "-c", str(HERE), "-d", str(Path(name, "doctrees"))]
        return sphinx([*options, str(source), str(target)])


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    status = build(target)
    if not status:
        print(f"课程网页在 {target / 'index.html'}，用浏览器打开就能看，不用联网")
    sys.exit(status)
