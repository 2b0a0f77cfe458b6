"""What the lessons import: from data synthesis to a fine-tuned model one can talk to, and one that sees.

Four rooms follow the lessons: ``synthesis`` (1), ``dataset`` (2-4), ``training`` (5-6) and ``seeing`` (7).
``chat`` talks to what came of them, ``exercises`` checks a student's answers, ``parameters`` a lesson's
settings. The ground floor is what all stand on: where files lie (``paths``) and how they are read and
written (``records``, ``formats``, ``rows``, ``tables``), the wishes and what can be wrong with them
(``wishes``, ``request``, ``faults``, ``details``), and the tools of the trade (``plots``, ``hubs``,
``llama`` ...). Rooms import the floor; besides, ``training`` asks the editor of ``dataset``, and ``chat``
and ``seeing`` stand on ``training`` (the drawing is in ``README.md`` here). What no lesson needs lives in
``tianji_toolbox``, of which nothing here knows. Importing this package imports none of its parts.
"""

__version__ = "0.1.0"
