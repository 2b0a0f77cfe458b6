"""The offline teacher's server with the phrasebook behind it, so that any prompt gets an answer.

It reads recipient, scene and style from the last message (the lines that ``prompts`` writes), or the
text that ``knowledge`` wants questions about. The answer depends on the request's ``seed`` and messages
alone; without a seed it differs each time, and at temperature 0 the seed does not matter, as with a
real model.
"""

import json
import random
import re

from phrasebook import Phrasebook, dirt, quiz
from tianji_helpers import wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis.teacher import Teacher

_FIELDS = {
    "recipient": re.compile(r"^对象：([^（\n]+)", re.M),
    "scene": re.compile(r"^场景：(.+)$", re.M),
    "style": re.compile(r"^风格：([^。\n]+)", re.M),
}
_QUIZ = re.compile(r"^请根据下面的资料出 (\d+) 道问答题。.*?^资料：\n(.+)", re.M | re.S)
_REQUIREMENT = re.compile(r"^额外要求：(.+)$", re.M)


class PhrasebookTeacher(Teacher):
    """dirt_share: how many of the answers are spoilt (see ``dirt``), 0 to 1."""

    fingerprint = "phrasebook, not a language model"

    def __init__(self, dirt_share: float = 0.18, latency: float = 0.0):
        super().__init__(latency)
        self.dirt_share = dirt_share
        self._book = Phrasebook(wishes.load())

    def answer(self, body: dict) -> str:
        text = str(body["messages"][-1].get("content", ""))
        seed = None if body.get("temperature") == 0 else body.get("seed", random.getrandbits(31))
        rng = random.Random(json.dumps([seed, body["messages"]], ensure_ascii=False))
        wanted = _QUIZ.search(text)
        return self._quiz(wanted, rng) if wanted else self._wish(text, rng)

    def _wish(self, text: str, rng: random.Random) -> str:
        found = {name: pattern.search(text) for name, pattern in _FIELDS.items()}
        if not all(found.values()):
            raise CourseError("短语本只会写祝福和出题：消息里要有“对象：”“场景：”“风格：”三行。")
        recipient, scene, style = (match[1].strip() for match in found.values())
        requirement = _REQUIREMENT.search(text)

        def compose() -> str:
            return self._book.compose(recipient, scene, style, requirement[1] if requirement else "", rng)

        wish = compose()
        if rng.random() >= self.dirt_share:
            return wish
        return dirt.soil(rng.choice(dirt.KINDS), wish, recipient, scene, compose, rng)

    def _quiz(self, wanted: re.Match, rng: random.Random) -> str:
        pairs = quiz.compose(wanted[2], int(wanted[1]), rng)
        if not pairs:
            raise CourseError("短语本在这段资料里找不到能出题的句子（10 到 160 个字）。")
        kind = rng.choice(dirt.JSON_KINDS) if rng.random() < self.dirt_share else ""
        return dirt.soil_json(kind, pairs, rng)
