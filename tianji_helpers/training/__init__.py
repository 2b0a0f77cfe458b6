"""Notebooks 05 and 06: base models, XTuner's configs and programs, inference and evaluation.

``tasks`` does the whole of it in one call; ``xtuner_compat`` alone knows XTuner's quirks.
Not here: how rows are made; a training gets files.
"""

import logging

# bitsandbytes warns, when it is imported, that an optional CPU kernel is not installed; students
# would take it for an error (bitsandbytes 0.50.2, backends/cpu/ops.py)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
