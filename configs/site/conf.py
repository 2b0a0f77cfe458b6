"""The course as static pages (`make site`): the committed notebooks with their outputs, never executed.

The pages open from disk and ask no other host for anything: maps become SVG and formulas MathML while
building, and the search index is a script.
"""

import json
import re
from itertools import pairwise

import mmdr
import nh3
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.search import SearchLanguage

project = "送祝福"
html_title = "送祝福：从造数据到微调模型"
language = "zh_CN"
extensions = ["myst_nb"]
root_doc = "notebooks/README"
include_patterns = [  # what stands beside, solutions say, has no page
    *("*.md", "data/README.md", "tianji_helpers/README.md"),
    *("notebooks/*.md", "notebooks/0*.ipynb", "api/*.md"),
]
nitpicky = True

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # widgets would come from another host; their text is there
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3

html_theme = "furo"
templates_path = ["templates"]
html_additional_pages = {"index": "start.html"}  # leads to the start page
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
html_permalinks = False
html_show_copyright = False
html_show_sphinx = False
html_show_search_summary = False  # the browser would have to read other files, which it may not from disk
html_math_renderer = "mathml"
html_search_language = "zh"

ATTRIBUTES = nh3.ALLOWED_ATTRIBUTES | {"*": {"class", "id", "title"}}
HAN = "[一-鿿]"


class ChineseSearch(SearchLanguage):
    """Chinese by single characters and pairs, so that any part of a text is found without a dictionary.

    A query is cut into pairs (one character stays one), all of which a page must have.
    """

    lang = "zh"
    js_splitter_code = """
var splitQuery = (query) =>
  (query.match(/HAN+|(?:(?!HAN)[\\p{L}\\p{N}])+/gu) || []).flatMap((run) =>
    /^HAN{2}/.test(run) ? [...run].slice(1).map((_, at) => run.slice(at, at + 2)) : [run]);
""".replace("HAN", HAN)

    def split(self, text):
        words = []
        for run in re.findall(rf"{HAN}+|(?:(?!{HAN})[^\W_])+", text):
            words += [*run, *map("".join, pairwise(run))] if re.match(HAN, run) else [run.lower()]
        return words


def add_download(app, docname, source):
    """Offer the notebook itself, below the first cell."""
    if not docname.startswith("notebooks/0"):
        return
    notebook = json.loads(source[0])
    name = docname.removeprefix("notebooks/") + ".ipynb"
    text = f"{{download}}`下载这个笔记本（{name}） <{name}>`"
    cell = {"cell_type": "markdown", "id": "download", "metadata": {}, "source": text}
    notebook["cells"].insert(1, cell)
    notebook["metadata"].pop("widgets", None)  # their state would be a script
    source[0] = json.dumps(notebook, ensure_ascii=False)


def take_scripts_out(app, doctree):
    """Leave of HTML in texts and outputs what shows something; the theme's scripts are the only ones."""
    for node in doctree.findall(nodes.raw):
        if "html" in node["format"]:
            node.children = [nodes.Text(nh3.clean(node.astext(), attributes=ATTRIBUTES))]


def draw_maps(app, doctree):
    """Turn Mermaid blocks into SVG."""
    blocks = [block for block in doctree.findall(nodes.literal_block) if block.get("language") == "mermaid"]
    for number, block in enumerate(blocks):
        svg = mmdr.render(block.astext()).svg().replace("merman", f"map-{number}")
        block.replace_self(nodes.raw("", f'<div class="map">{svg}</div>', format="html"))


def write_math(writer, node):
    display = isinstance(node, nodes.math_block)
    writer.body.append(tex2mathml(node.astext(), as_block=display))
    raise nodes.SkipNode


def setup(app):
    app.add_search_language(ChineseSearch)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", add_download)
    app.connect("doctree-read", take_scripts_out)
    app.connect("doctree-read", draw_maps, priority=600)  # ours are drawn here
