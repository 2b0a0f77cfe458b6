"""Notebook 05: base models, XTuner's configs and engine, inference and evaluation."""

import logging

# bitsandbytes warns, when it is imported, that an optional CPU kernel is not installed; students
# would take it for an error (bitsandbytes 0.50.2, backends/cpu/ops.py)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
