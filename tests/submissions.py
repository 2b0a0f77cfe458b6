"""Notebooks as students hand them in, for the tests of grading and of its confinement."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

RIGHT = "import re\n\n\ndef squeeze(text):\n    return re.sub('([！～])\\\\1+', '\\\\1', text)\n\n\n"
RIGHT += 'check("02-2", squeeze)'
WRONG = 'def strip_quotes(text):\n    return text.strip("“”「」")\n\n\ncheck("02-1", strip_quotes)'
ENDLESS = "while True:\n    pass"


def notebook(*sources, section="## 练习"):
    """Return a notebook with these cells under a heading, between others that must not be run."""
    before = [new_markdown_cell("# 第 2 课"), new_code_cell("raise RuntimeError('not to be run')")]
    after = [new_markdown_cell("## 小结"), new_code_cell("raise RuntimeError('not to be run')")]
    imports = new_code_cell("from tianji_helpers.exercises import check")
    inside = [new_markdown_cell(section), imports, *map(new_code_cell, sources)]
    return new_notebook(cells=[*before, *inside, *after])
