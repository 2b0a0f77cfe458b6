"""Build the pages (`make site`): ``python build.py FOLDER``.

What is read is copied into one folder, in the places it has in the repository, so that relative
links lead where they lead there; the start page gets the table of contents. The pages of the packages are
made from their docstrings (``api.py``).

Each page has a Content-Security-Policy: no script runs but files beside the pages and the lines that the
theme writes into every page. ``conf.py`` takes out of a notebook what could be one; the policy is for what
it overlooks.
"""

import base64
import hashlib
import json
import re
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
MADE = ".made-by-make-site.json"  # in the result: its files and their SHA-256
FOLDERS = ("notebooks", "data", "configs", "tests/pages/screenshots")

# file: not every browser takes a page from disk for the same origin as the files beside it. unsafe-eval: the
# theme's translations make a function of their text; what may not run cannot ask for it.
POLICY = (
    "default-src 'none'; script-src 'self' file: 'unsafe-eval' {scripts}; style-src 'self' file: "
    "'unsafe-inline'; img-src 'self' file: data:; font-src 'self' file: data:; base-uri 'none'; "
    "form-action 'self' file:"
)
CHARSET = re.compile(r'<meta charset="utf-8" ?/?>')
INLINE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


def add_policy(target: Path) -> None:
    """Write the policy into every page; one that is not whole has none.

    The search page has nobody's text: what is inline there is the theme's.
    """
    theme = set(INLINE.findall((target / "search.html").read_text(encoding="utf-8")))
    sums = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in sorted(theme))
    policy = POLICY.format(scripts=" ".join(f"'sha256-{one}'" for one in sums))
    for file in target.rglob("*.html"):
        page = file.read_text(encoding="utf-8")
        meta = rf'\g<0><meta http-equiv="Content-Security-Policy" content="{policy}">'
        file.write_text(CHARSET.sub(meta, page, count=1), encoding="utf-8")


def build(target: Path) -> int:
    """Write the pages into ``target``, anew; return Sphinx's exit status. Warnings are errors.

    An earlier result goes if there is nothing else beside it, such as the ``.git`` of published pages.
    """
    made = json.loads((target / MADE).read_text(encoding="utf-8")) if (target / MADE).is_file() else {}
    if others := [name for name, digest in listing(target).items() if made.get(name) != digest]:
        some = "、".join(others[:3]) + ("等" if len(others) > 3 else "")
        sys.exit(
            f"错误：{target} 里有 make site 没有写过、或者改动过的东西（{some}），不会删掉。"
            "请把它们移走，或换一个文件夹。"
        )
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
        try:
            return sphinx([*options, str(source), str(target)])
        finally:
            if (target / "search.html").is_file():  # also where Sphinx only warned
                add_policy(target)
            target.mkdir(parents=True, exist_ok=True)
            (target / MADE).write_text(json.dumps(listing(target), indent=1), encoding="utf-8")


def listing(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files below a folder, by their names there."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MADE
    }


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    status = build(target)
    if not status:
        print(f"课程网页在 {target / 'index.html'}，用浏览器打开就能看，不用联网")
    sys.exit(status)
