"""Notebooks 05 and 06: base models, trainings by XTuner, what comes of them, and what it is worth.

Here live the catalogue (``models``; ``embedded`` and ``qwen`` make two of them from packages), XTuner's
configs and programs (``configs``, ``planning``, ``launch``; only ``xtuner_compat`` knows its quirks),
loading and answering (``inference``), and measures (``progress``, ``evaluation``, ``figures``, ``quality``).
No module makes or cleans data, and only ``tasks`` knows the lessons' folders; what makes it fast, and
nothing else, is in ``fast``.
"""

import logging

# bitsandbytes warns, when it is imported, that an optional CPU kernel is not installed; students
# would take it for an error (bitsandbytes 0.50.2, backends/cpu/ops.py)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
