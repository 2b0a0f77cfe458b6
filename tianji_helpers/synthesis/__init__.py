"""Notebook 01: wishes from a teacher model.

``prompts`` turns the matrix into prompts, ``providers`` knows whom to ask, ``teacher`` is the one that
needs no network, ``journal`` keeps every answer, ``engine`` sends, limits, checks and counts;
``generate`` (wishes) and ``knowledge`` (questions and answers from texts) put them together.
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
