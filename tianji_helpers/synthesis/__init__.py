"""Notebook 01: raw rounds of wishes, or of questions and answers, from a teacher model.

Here live prompts, whom one may ask (``providers``, ``teacher``), how all is asked and none lost (``client``,
``window``, ``limits``, ``journal``), and what becomes of the answers (``generate``, ``knowledge``). What
mends or rejects an answer later belongs to ``dataset``, what scores one is handed in: no model is loaded
here.
"""

from tianji_helpers.synthesis.client import Settings as Settings
from tianji_helpers.synthesis.generate import SMALL_RUN as SMALL_RUN
from tianji_helpers.synthesis.generate import ensure_rounds as ensure_rounds
from tianji_helpers.synthesis.generate import ensure_teachers as ensure_teachers
from tianji_helpers.synthesis.generate import preview as preview
from tianji_helpers.synthesis.generate import round_files as round_files
from tianji_helpers.synthesis.generate import synthesize as synthesize
from tianji_helpers.synthesis.knowledge import preview_knowledge as preview_knowledge
from tianji_helpers.synthesis.knowledge import synthesize_knowledge as synthesize_knowledge
from tianji_helpers.synthesis.prices import Price as Price
from tianji_helpers.synthesis.prompts import build as build
from tianji_helpers.synthesis.providers import choose as choose
from tianji_helpers.synthesis.teacher import Teacher as Teacher
