"""Helpers of the wishes course: from data synthesis to a fine-tuned model one can talk to.

On the ground floor stands what several lessons need; each part of the course has a room: ``synthesis``
(notebook 01), ``dataset`` (02-04), ``training`` (05, 06), ``chat`` (06) and ``exercises``. The map is in
``README.md``, beside this file. Importing this package imports none of them.
Not here: what no lesson imports (``tianji_toolbox``).
"""

__version__ = "0.1.0"
