"""Wishes put together from phrases.

``phrasebook.yaml`` holds, for every scene and usual style, sentences that name the scene,
short follow-ups and emoji, and general blessings by the kind of recipient; ``phrasebook_more.yaml`` the
same for the extra styles, whose wishes all have one shape (lead, scene, follow-ups). ``compose`` draws
from them with the random generator it is given, so the same seed gives the same wish. This is no
language model: it knows the scenes of its files and nothing else.
"""

import random
from pathlib import Path

from tianji_helpers import tables
from tianji_helpers.errors import CourseError
from tianji_helpers.wishes import Matrix, Recipient, Style

# Target lengths in characters, inside the bounds of styles.yaml: short, alike wishes are what a
# small model can learn in one pass.
TARGET_CHARS = {"正常": (15, 40), "小红书": (15, 50), "严肃": (30, 80)}
_TRIES = 200


class Phrasebook:
    """The phrases of a folder's two files, checked against the matrix.

    ``chars`` maps each style that the book can write to its lengths (least, most) in characters.
    Raises CourseError that names file, scene and rule if a phrase does not fit the matrix.
    """

    def __init__(self, matrix: Matrix, folder: str | Path | None = None):
        self.matrix = matrix
        folder = Path(folder or Path(__file__).parent)
        self.file, self._more_file = folder / "phrasebook.yaml", folder / "phrasebook_more.yaml"
        book, self._more = tables.read_yaml(self.file), tables.read_yaml(self._more_file)
        try:
            self._scenes, self._general = book["scenes"], book["general"]
            self._openings, self._particles = book["openings"], book["particles"]
            extra = {style: tuple(page["chars"]) for style, page in self._more.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise CourseError(
                f"{self.file} 应当有 scenes、general、openings 和 particles，"
                f"{self._more_file} 的每种风格应当有 chars。"
            ) from error
        self.chars = TARGET_CHARS | extra
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
        if who is None or how is None or scene not in self._sentences(style):
            file = self.file if style in TARGET_CHARS else self._more_file
            raise CourseError(
                f"短语本里没有“{recipient} × {scene} × {style}”。请在 {file} 里补上短语，"
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
        low, high = self.chars[style]
        page = self._more.get(style)
        for _ in range(_TRIES):
            form = rng.choice(forms)
            if page is None:
                wish, echo = self._draw(who, how, scene, form, rng), 3
            else:
                wish, echo = _draw_from(page, who, scene, form, rng), page.get("echo", 3)
            if low <= len(wish) <= high and _holds_no_echo(wish, echo):
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

    def _sentences(self, style: str) -> dict[str, list[str]]:
        """Return the sentences of a style by scene; empty if the book does not know the style."""
        if style in self._more:
            return self._more[style]["scenes"]
        return {name: book[style] for name, book in self._scenes.items() if style in book}

    def _check(self) -> None:
        for style in self.chars:
            file = self._more_file if style in self._more else self.file
            for name, sentences in self._sentences(style).items():
                scene = self.matrix.scenes.get(name)
                if scene is None:
                    continue  # a scene that a student took out of the matrix
                for sentence in sentences:
                    if not any(word in sentence for word in scene.keywords):
                        raise CourseError(
                            f"{file} 的场景“{name}”：{style}的句子“{sentence}”里没有这个场景的关键词"
                            f"（{'、'.join(scene.keywords)}）。"
                        )


def _draw_from(page: dict, who: Recipient, scene: str, form: str, rng: random.Random) -> str:
    """Draw a wish of an extra style: lead, the scene's sentence, follow-ups."""
    address = who.address[0]
    leads, sentences = page.get("leads", [""]), page["scenes"][scene]
    if form == "inline" and leads == [""]:
        sentences = [sentence for sentence in sentences if "{who}" in sentence]
    pool = page["general"]["all"] + page["general"][who.kind]
    parts = [rng.choice(sentences), *rng.sample(pool, rng.randint(*page["tails"]))]
    wish = rng.choice(leads) + page["joint"].join(parts) + rng.choice(page["stops"])
    pronoun = page.get("you", who.honorific)
    wish = wish.replace("{who}", address if form == "inline" else pronoun).replace("{you}", pronoun)
    return f"{address}，{wish}" if form == "front" else wish


def _holds_no_echo(wish: str, size: int) -> bool:
    """Say that no ``size`` characters occur twice (愿你…愿你… is fine, 平安喜乐…平安喜乐 is not)."""
    parts = [wish[i : i + size] for i in range(len(wish) - size + 1)]
    return len(parts) == len(set(parts))
