"""Notebook 01: raw rounds of wishes, or of questions and answers, from a teacher model.

Here live prompts, whom one may ask (``providers``, ``teacher``), how all is asked and none lost (``client``,
``window``, ``limits``, ``journal``), and what becomes of the answers (``generate``, ``knowledge``). What
mends or rejects an answer later belongs to ``dataset``, what scores one is handed in: no model is loaded
here.
"""

from tianji_helpers.synthesis.client import Settings
from tianji_helpers.synthesis.generate import (
    SMALL_RUN,
    ensure_rounds,
    ensure_teachers,
    preview,
    round_files,
    synthesize,
)
from tianji_helpers.synthesis.knowledge import preview_knowledge, synthesize_knowledge
from tianji_helpers.synthesis.prices import Price
from tianji_helpers.synthesis.prompts import build
from tianji_helpers.synthesis.providers import choose
from tianji_helpers.synthesis.teacher import Teacher

__all__ = [
    "SMALL_RUN",
    "Price",
    "Settings",
    "Teacher",
    "build",
    "choose",
    "ensure_rounds",
    "ensure_teachers",
    "preview",
    "preview_knowledge",
    "round_files",
    "synthesize",
    "synthesize_knowledge",
]
