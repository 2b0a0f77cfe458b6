"""Notebooks as students hand them in, for the tests of grading and of its confinement."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tianji_toolbox.classroom.sandbox import Sandbox

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


def patient(*students, cell=0):
    """Return a Sandbox whose time counts for these students only, and from one of their cells on.

    So a machine may take as long as it likes for what must not be stopped.
    """

    class Patient(Sandbox):
        def _start(self, stack):
            limit, self.seconds = self.seconds, 600
            super()._start(stack)
            self.seconds = limit

        def run(self, index):
            if index == cell and self.notebook.stem in students:
                self._watch.allow(self.seconds)
            return super().run(index)

    return Patient
