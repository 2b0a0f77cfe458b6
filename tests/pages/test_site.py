"""The course as static pages, opened from disk: nothing is asked of any host, and links lead somewhere."""

import ast
import json
import shutil
import subprocess
from itertools import pairwise
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tianji_helpers.paths import CONFIGS, HELPERS, ROOT, TOOLBOX
from tianji_toolbox.classroom.course import ADDED, find_notebooks

PYTHON = ROOT / "build" / "site" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="没有 build/site：网页的环境由 make site 准备")

LESSONS = [f"notebooks/{file.stem}.html" for file in find_notebooks()]
START, MANUAL, DATA = "notebooks/README.html", "README.zh-CN.html", "data/README.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages."""
    target = tmp_path_factory.mktemp("site") / "html"
    command = [PYTHON, CONFIGS / "site" / "build.py", target]
    done = subprocess.run(command, cwd=target.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    return target


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path below the folder."""
    return {
        str(file.relative_to(site)): BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        for file in site.rglob("*.html")
    }


@pytest.fixture
def visit(site, page):
    """``visit("index.html")``; what the pages asked of a host, or complained of, fails the test."""
    complaints = []
    local = ("file:", "data:")
    page.on("request", lambda request: request.url.startswith(local) or complaints.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on(
        "console", lambda message: message.type in ("error", "warning") and complaints.append(message.text)
    )
    yield lambda path: page.goto((site / path).as_uri())
    assert not complaints


def test_the_pages_are_the_lessons_and_what_belongs_to_them(pages):
    assert {"index.html", START, MANUAL, DATA, "README.html", "CONTRIBUTING.html", *LESSONS} <= pages.keys()
    assert not [path for path in pages if "solutions" in path]
    policy = {"http-equiv": "Content-Security-Policy"}
    assert not [path for path, soup in pages.items() if not soup.find("meta", policy)]


def test_a_script_that_got_in_does_not_run(site, page):
    """Whatever takes scripts out may overlook one; the theme's own still run, as all visits here show."""
    lesson = site / LESSONS[0]
    text = lesson.read_text(encoding="utf-8")
    bad = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\">"
    bad += "<a id=bad href=\"javascript:void(document.title = 'evil')\">x</a>"
    bad += "<script src=https://evil.example/x.js></script>"
    other = lesson.with_name("evil.html")
    other.write_text(text.replace('<article role="main"', f'{bad}<article role="main"', 1), encoding="utf-8")
    asked = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    try:
        page.goto(other.as_uri())
        page.locator("#bad").dispatch_event("click")
        page.wait_for_timeout(500)
        assert "evil" not in page.title()
        assert page.locator("body").get_attribute("data-theme") == "auto"  # by the theme's own line
        assert not [url for url in asked if url.startswith("http")]
    finally:
        other.unlink()


def test_a_folder_of_somebody_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    command = [PYTHON, CONFIGS / "site" / "build.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode and "不会删掉" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", [".git/config", "CNAME", "index.html"])
def test_pages_that_somebody_publishes_are_not_replaced_with_what_was_added(name, site, tmp_path):
    made = json.loads((site / ".made-by-make-site.json").read_text(encoding="utf-8"))
    assert len(made) > 50 and all((site / file).is_file() for file in made)
    shutil.copytree(site, tmp_path / "pages")
    mine = tmp_path / "pages" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    command = [PYTHON, CONFIGS / "site" / "build.py", tmp_path / "pages"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode and f"（{name}）" in done.stderr and mine.read_text() == "mine"


EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
OUTPUTS = [
    {"text/html": EVIL},
    {"image/png": "QUJD"},
    {"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'>{EVIL}</svg>"},
    {"text/markdown": EVIL},
    {"text/latex": f"${EVIL}$"},
    {"application/javascript": "alert(3)"},
    {"text/vnd.mermaid": f"graph TD; {EVIL}"},
]


def test_a_notebook_brings_no_script(tmp_path):
    """Somebody's contribution, say: what runs in the pages is the theme's alone."""
    for name in ("configs", "notebooks", "data", "tests/pages/screenshots", "tianji_helpers"):
        shutil.copytree(ROOT / name, tmp_path / "course" / name)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path / "course")
    notebook = tmp_path / "course" / LESSONS[0].replace(".html", ".ipynb")
    book = json.loads(notebook.read_text(encoding="utf-8"))
    code = next(cell for cell in book["cells"] if cell["cell_type"] == "code" and cell["outputs"])
    metadata = {"image/png": {"width": "1 onerror=alert(1)"}, "width": "1' onerror='alert(1)"}
    code["outputs"] = [
        {"output_type": "display_data", "data": data, "metadata": metadata} for data in OUTPUTS
    ]
    code["outputs"].append({"output_type": "stream", "name": "stdout", "text": EVIL})
    math = f"$a {EVIL}$ [x](javascript:alert(1))"
    texts = [f"## t\n\n{EVIL} x\n\n{EVIL}", math, f'```mermaid\ngraph TD; A["{EVIL}"] --> B\n```']
    book["cells"] += [
        {"cell_type": "markdown", "id": f"m{n}", "metadata": {}, "source": t} for n, t in enumerate(texts)
    ]
    raw = {"raw_mimetype": "text/html", "format": "text/html"}
    book["cells"].append({"cell_type": "raw", "id": "raw", "metadata": raw, "source": EVIL})
    state = {"a": {"model_name": f"</script>{EVIL}", "state": {}}}
    widgets = {"state": state, "version_major": 2, "version_minor": 0}
    book["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": widgets}
    notebook.write_text(json.dumps(book), encoding="utf-8")
    target = tmp_path / "html"
    command = [PYTHON, tmp_path / "course" / "configs" / "site" / "build.py", target]
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)  # it warns
    page, other = (
        BeautifulSoup((target / name).read_text(encoding="utf-8"), "html.parser") for name in LESSONS[:2]
    )

    def scripts(soup):
        return sorted(str(tag) for tag in soup.find_all("script"))

    assert scripts(page) == scripts(other)
    policies = {str(soup.find("meta", {"http-equiv": "Content-Security-Policy"})) for soup in (page, other)}
    assert len(policies) == 1 and "default-src 'none'" in policies.pop()
    for tag in page.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on")], tag
        address = str(tag.get("href") or tag.get("src") or "")
        assert not address.startswith(("javascript:", "data:text")), tag


def test_links_lead_somewhere(site, pages):
    ids = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    seen = 0
    for path, soup in pages.items():
        for tag in soup.find_all(["a", "img", "link", "script"]):
            url = urlsplit(tag.get("href") or tag.get("src") or "")
            if url.scheme == "data" or not any(url):
                continue
            if url.scheme:
                assert tag.name == "a" and url.scheme in ("http", "https") and "." in url.netloc, tag
                continue
            target = (site / path).parent / unquote(url.path) if url.path else site / path
            assert target.resolve().is_file(), f"{path}: {tag}"
            if url.fragment and tag.name == "a":
                name = str(target.resolve().relative_to(site.resolve()))
                assert unquote(url.fragment) in ids[name] | {""}, f"{path}: {tag}"
            seen += 1
    assert seen > 300


def test_a_lesson_is_its_notebook_with_outputs_and_offers_it(site, pages):
    for file, path in zip(find_notebooks(), LESSONS, strict=True):
        soup = pages[path]
        assert soup.select(".cell_output") and "学完你能" in soup.get_text()
        (link,) = [a for a in soup.select("a.download") if a["href"].endswith(file.name)]
        assert ((site / path).parent / link["href"]).read_bytes() == file.read_bytes()
        assert not soup.select(".highlight-mermaid")
        if file.stem[:2] not in ADDED:
            assert "05 QLoRA" in soup.select_one(".map svg").get_text()


def test_every_module_has_a_page_with_what_it_offers(pages):
    for file in [*HELPERS.rglob("*.py"), *TOOLBOX.rglob("*.py")]:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text = pages[f"api/{name}.html"].select_one("article").get_text()
        module = ast.parse(file.read_text(encoding="utf-8"))
        told = [ast.get_docstring(module).split("\n")[0]]
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                told.append(f"{'class' if isinstance(node, ast.ClassDef) else 'def'} {node.name}")
                told += (ast.get_docstring(node) or "").split("\n")[:1]
        for line in told:
            assert line.replace("`", "").replace("*", "") in text.replace("*", ""), (name, line)


def test_a_docstring_keeps_its_examples_and_is_no_markup_by_chance(tmp_path):
    package = tmp_path / "tianji_helpers"
    package.mkdir()
    (tmp_path / "tianji_toolbox").mkdir()
    lines = [
        "Write ``<run>/$A`` for $A and $B <b>or</b> [a](b).",
        "",
        "    a_b = c_d * 2",
        "",
        ">>> f(1)",
        "2",
    ]
    code = ["def f(one: int = 1, *, two: str = '') -> int:", '    """', *(f"    {line}" for line in lines)]
    (package / "__init__.py").write_text("\n".join(['"""First."""', *code, '    """', "    return 2"]))
    command = "import api, pathlib; api.write(pathlib.Path(), pathlib.Path('out'))"
    environment = {"PYTHONPATH": str(CONFIGS / "site")}
    subprocess.run([PYTHON, "-c", command], cwd=tmp_path, env=environment, check=True, timeout=60)
    made = (tmp_path / "out" / "tianji_helpers.md").read_text(encoding="utf-8").split("\n\n")
    assert made[:2] == ["# tianji\\_helpers", "First."]
    assert made[2:4] == ["## f", "```python\ndef f(one: int=1, *, two: str='') -> int:\n```"]
    assert made[4] == r"Write ``<run>/$A`` for \$A and \$B \<b>or\</b> \[a\](b)."
    assert made[5:] == ["    a_b = c_d * 2", "```pycon\n>>> f(1)\n2\n```\n"]


def test_the_map_of_the_house_is_drawn(pages):
    assert "training.fast" in pages["tianji_helpers/README.html"].select_one(".map svg").get_text()


def test_previous_and_next_follow_the_lessons(pages):
    order = [START, *LESSONS, MANUAL]
    for path, following in pairwise(order):
        link = pages[path].select_one("a.next-page")
        assert link["href"].rpartition("/")[2] == following.rpartition("/")[2]
        assert link.select_one(".context").get_text(strip=True) == "下一页"


def test_a_reader_starts_and_goes_to_a_figure_and_a_formula(visit, page):
    visit("index.html")
    page.wait_for_url(f"**/{START}")
    page.locator("article table a", has_text="第 4 课").click()
    figure = page.locator(".cell_output img").first
    assert figure.evaluate("image => image.complete && image.naturalWidth") > 300
    assert page.locator(".map svg").bounding_box()["height"] > 100
    visit(LESSONS[4])
    assert page.locator("math mfrac").first.bounding_box()["height"] > 10


@pytest.mark.parametrize(
    ("query", "lesson"),
    [
        ("弱智吧", 4),
        ("祝福", 1),
        ("困惑", None),
        ("pth_to_hf", None),
        ("qlora", 5),
        ("慧", None),
        ("飕飗飕飗", None),
    ],
)
def test_chinese_is_found_without_a_server(visit, page, query, lesson, pages):
    visit(START)
    page.get_by_placeholder("搜索").fill(query)
    page.keyboard.press("Enter")
    page.locator(".search-summary").filter(has_text="搜索").or_(page.get_by_text("没有")).first.wait_for()
    found = {href.rpartition("/")[2].partition("#")[0].partition("?")[0] for href in links(page)}
    held = {path.rpartition("/")[2] for path, soup in pages.items() if query in article(soup)}
    assert found >= held - {"search.html", "genindex.html"}
    assert bool(found) == bool(held)
    if lesson:
        assert LESSONS[lesson - 1].rpartition("/")[2] in found


def links(page):
    return page.locator("#search-results a").evaluate_all("links => links.map(link => link.href)")


def article(soup):
    return "".join(part.get_text() for part in soup.select("article")).lower()


@pytest.mark.parametrize("path", [START, MANUAL, DATA, *LESSONS])
def test_a_phone_scrolls_no_page_sideways(visit, page, path):
    page.set_viewport_size({"width": 375, "height": 800})
    visit(path)
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_figures_and_maps_stand_on_light_paper_in_the_dark(visit, page):
    page.emulate_media(color_scheme="dark")
    visit(LESSONS[3])
    colour = "element => getComputedStyle(element).backgroundColor"
    assert page.locator("body").evaluate(colour) != "rgb(255, 255, 255)"
    for part in (".map", ".cell_output img"):
        assert page.locator(part).first.evaluate(colour) == "rgb(255, 255, 255)"
