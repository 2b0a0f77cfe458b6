"""Wishes put together from phrases: what the offline teacher knows.

``data/wishes/phrasebook.yaml`` holds, for every scene and style, sentences that name the scene, short
follow-ups and emoji, and general blessings by the kind of recipient. ``compose`` draws from them with
the random generator it is given, so the same seed gives the same wish. This is no language model: it
knows the scenes of its file and nothing else.
"""

import random
from pathlib import Path

import yaml

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.wishes import Matrix, Recipient, Style

# Target lengths in characters, inside the bounds of styles.yaml: short, alike wishes are what a
# small model can learn in one pass.
TARGET_CHARS = {"正常": (15, 40), "小红书": (15, 50), "严肃": (30, 80)}
_TRIES = 200


class Phrasebook:
    """The phrases of one file, checked against the matrix.

    Raises CourseError that names file, scene and rule if a phrase does not fit the matrix.
    """

    def __init__(self, matrix: Matrix, file: str | Path | None = None):
        self.matrix = matrix
        self.file = paths.DATA / "wishes" / "phrasebook.yaml" if file is None else Path(file)
        try:
            book = yaml.safe_load(records.read_text(self.file))
        except yaml.YAMLError as error:
            raise CourseError(f"{self.file} 不是合法的 YAML：{error}") from error
        try:
            self._scenes, self._general = book["scenes"], book["general"]
            self._openings, self._particles = book["openings"], book["particles"]
        except (KeyError, TypeError) as error:
            raise CourseError(f"{self.file}：应当有 scenes、general、openings 和 particles。") from error
        self._check()

    def compose(
        self, recipient: str, scene: str, style: str, requirement: str = "", rng: random.Random | None = None
    ) -> str:
        """Return one clean wish.

        requirement: one of the prompt's random requirements; it decides where the address stands.
        rng: where the choices come from; None draws afresh each time.
        Raises CourseError if the book has no such scene or style.
        """
        rng = rng or random.Random()
        who, how = self.matrix.recipients.get(recipient), self.matrix.styles.get(style)
        if who is None or how is None or scene not in self._scenes or style not in TARGET_CHARS:
            raise CourseError(
                f"短语本里没有“{recipient} × {scene} × {style}”。请在 {paths.show(self.file)} 里补上短语，"
                "或换一个真正的大模型（provider）。"
            )
        if "不必" in requirement:
            forms = ("bare",)
        elif "开头先称呼" in requirement:
            forms = ("front",)
        elif "不要单独放在开头" in requirement:
            forms = ("inline",)
        else:
            forms = ("front", "inline")
        low, high = TARGET_CHARS[style]
        for _ in range(_TRIES):
            wish = self._draw(who, how, scene, rng.choice(forms), rng)
            if low <= len(wish) <= high and _holds_no_echo(wish):
                return wish
        raise CourseError(
            f"{self.file}：“{scene}”的{style}短语拼不出 {low}–{high} 字的祝福，请补几句长短合适的。"
        )

    def _draw(self, who: Recipient, how: Style, scene: str, form: str, rng: random.Random) -> str:
        book, general = self._scenes[scene], self._general[how.name]
        address = who.address[0]
        if how.name == "严肃":
            address = self._openings[who.kind] + address
        sentences = book[how.name]
        if form == "inline":
            sentences = [s for s in sentences if "{who}" in s]
        opening = f"{address}，" if form == "front" else ""
        sentence = rng.choice(sentences).replace("{who}", address if form == "inline" else "{you}")

        own = book["formal" if how.name == "严肃" else "more"]
        common = general["all"] + general[who.kind]
        first = rng.choice(own if rng.random() < 0.4 else common)
        second = rng.choice(common)
        if how.name == "小红书":
            wish = self._decorate(opening + sentence, first, book["emoji"], rng)
        else:
            tails = first if second == first or rng.random() < 0.5 else f"{first}，{second}"
            stop = "。" if how.name == "严肃" else rng.choice("！！。")
            wish = f"{opening}{sentence}，{tails}{stop}"
        return wish.replace("{you}", who.honorific)

    def _decorate(self, sentence: str, tail: str, emoji: list[str], rng: random.Random) -> str:
        first, second = rng.sample(emoji, 2)
        particle = rng.choice(self._particles)
        if rng.random() < 0.5:
            return f"{sentence}{first}{tail}{particle}{second}"
        return f"{sentence}，{tail}{particle}{first}"

    def _check(self) -> None:
        for name, scene in self.matrix.scenes.items():
            book = self._scenes.get(name)
            if book is None:
                continue  # a student's new scene: only the offline teacher cannot serve it
            for style in TARGET_CHARS:
                for sentence in book[style]:
                    if not any(word in sentence for word in scene.keywords):
                        raise CourseError(
                            f"{self.file} 的场景“{name}”：{style}的句子“{sentence}”里没有这个场景的关键词"
                            f"（{'、'.join(scene.keywords)}）。"
                        )


def _holds_no_echo(wish: str) -> bool:
    """Say that no three characters occur twice (愿你…愿你… is fine, 平安喜乐…平安喜乐 is not)."""
    threes = [wish[i : i + 3] for i in range(len(wish) - 2)]
    return len(threes) == len(set(threes))
