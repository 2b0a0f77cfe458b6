"""Greeting cards drawn by code: what is on them is known, and nobody holds a right to them.

A card shows one or two motifs of a scene (``data/cards/motifs.yaml``), moved, turned and mirrored by chance,
among confetti that says nothing. How it is drawn is its style; one style, ``UNSEEN``, is never trained on. No
card has a word on it unless ``text`` is given, so that there is nothing to read.
"""

import colorsys
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from tianji_helpers import paths, plots, tables
from tianji_helpers.errors import CourseError

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 256  # pixels
_FINE = 2  # drawn so many times larger, then reduced: soft edges
_COLORS = {
    **{"r": (206, 38, 42), "y": (245, 190, 50), "o": (240, 130, 40), "g": (90, 170, 70), "t": (30, 100, 60)},
    **{"b": (50, 95, 190), "c": (150, 205, 235), "p": (245, 150, 175), "v": (130, 80, 170)},
    **{
        "n": (140, 85, 45),
        "s": (250, 215, 175),
        "k": (45, 40, 50),
        "e": (160, 165, 170),
        "w": (252, 250, 244),
    },
}
Point = tuple[float, float]
Color = tuple[int, int, int]
Move = Callable[[Point], Point]


@dataclass(frozen=True)
class Look:
    """How a card is drawn. paper: of the ground, one by chance. fill, outline: rules (``_Pen._color``)."""

    paper: tuple[Color, ...]
    fill: str = "own"
    outline: str = ""
    width: float = 1.0
    wobble: float = 0.0
    blur: float = 0.0


STYLES = {
    "平涂": Look(((250, 240, 220), (255, 225, 225), (220, 240, 250), (225, 245, 225))),
    "线描": Look(((255, 255, 250), (245, 245, 235)), fill="", outline="ink", width=1.0),
    "剪纸": Look(((250, 235, 205), (255, 245, 230)), fill="cut", outline="red", width=0.8),
    "夜色": Look(((20, 25, 60), (35, 20, 55), (15, 40, 55)), fill="bright", outline="gold", width=0.6),
    "蜡笔": Look(((250, 245, 235), (240, 240, 225)), fill="pale", outline="own", width=1.8, wobble=0.035),
    "粉笔": Look(((35, 60, 50), (45, 50, 55)), fill="", outline="chalk", width=1.2, wobble=0.02, blur=0.6),
}
UNSEEN = "粉笔"
SEEN = tuple(name for name in STYLES if name != UNSEEN)


@cache
def motifs() -> dict[str, dict[str, list[str]]]:
    """Return the shapes of each motif of each scene."""
    found = tables.read_yaml(paths.DATA / "cards" / "motifs.yaml")
    return {
        scene: {name: [shape for row in rows for shape in row] for name, rows in drawn.items()}
        for scene, drawn in found.items()
    }


def scenes() -> list[str]:
    """Return the scenes that can be drawn, those of the course's default matrix."""
    return list(motifs())


def draw(scene: str, style: str = "平涂", seed: int | str = 0, text: str = "") -> "Image":
    """Return a card, 256 by 256 pixels. seed: of all that is left to chance. text: a line to write on it.

    Raises CourseError for a scene or style that there is not.
    """
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    for name, known in ((scene, motifs()), (style, STYLES)):
        if name not in known:
            raise CourseError(f"画不出“{name}”。可选：{'、'.join(known)}。")
    rng, how = Random(f"{scene} {style} {seed}"), STYLES[style]
    paper = rng.choice(how.paper)
    image = Image.new("RGB", (SIZE * _FINE, SIZE * _FINE), paper)
    canvas = ImageDraw.Draw(image)
    pen = _Pen(canvas, how, paper, rng)
    for _ in range(rng.randint(4, 14)):  # confetti
        x, y, size = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.015, 0.035)
        pen.shape(f"E {rng.choice('rygbpvo')} {x} {y} {size} {size}", lambda point: point)
    first, second = rng.sample(list(motifs()[scene].values()), 2)
    both = rng.random() < 0.4
    size = rng.uniform(0.38, 0.5) if both else rng.uniform(0.5, 0.75)
    side = rng.choice((-1, 1)) * 0.42 if both else 0.0
    places = [(first, side, size), (second, -side, size)] if both else [(first, side, size)]
    for shapes, x, scale in places:
        move = _placement(x + rng.uniform(-0.12, 0.12), rng.uniform(-0.2, 0.2), scale, rng)
        for shape in shapes:
            pen.shape(shape, move)
    if text:
        font = ImageFont.truetype(str(plots.font_file()), 30 * _FINE)
        ink = (250, 250, 240) if sum(paper) < 300 else (60, 20, 20)
        canvas.text((SIZE * _FINE / 2, SIZE * _FINE * 0.92), text, ink, font, anchor="mm")
    image = image.filter(ImageFilter.GaussianBlur(how.blur * _FINE)) if how.blur else image
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _placement(x: float, y: float, scale: float, rng: Random) -> Move:
    """Return a function that moves, turns, stretches and perhaps mirrors a point of a motif."""
    angle, mirror = rng.gauss(0, 0.12), rng.choice((-1, 1))
    wide, high = scale * mirror * rng.uniform(0.88, 1.12), scale * rng.uniform(0.88, 1.12)
    sin, cos = math.sin(angle), math.cos(angle)

    def move(point: Point) -> Point:
        px, py = point[0] * wide, point[1] * high
        return x + px * cos - py * sin, y + px * sin + py * cos

    return move


def outline(shape: str) -> tuple[str, list[Point], float]:
    """Return the colour letter of a shape, its points, and the width of its line (0: an area).

    >>> outline("B r 0 0 1 .5")
    ('r', [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)], 0.0)
    """
    kind, color, *words = shape.split()
    n = [float(word) for word in words]
    if kind == "E":
        return color, _arc(n, 0, 360), 0.0
    if kind == "B":
        return color, [(n[0], n[1]), (n[2], n[1]), (n[2], n[3]), (n[0], n[3])], 0.0
    if kind == "S":
        points, radii = int(n[0]), n[1:3]
        turns = (i * math.pi / points - math.pi / 2 for i in range(2 * points))
        star = [
            (n[3] + radii[i % 2] * math.cos(a), n[4] + radii[i % 2] * math.sin(a))
            for i, a in enumerate(turns)
        ]
        return color, star, 0.0
    if kind == "H":
        turns = (i * math.tau / 32 for i in range(32))
        wave = [
            (16 * math.sin(a) ** 3, 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a))
            for a in turns
        ]
        return color, [(n[0] + x / 16 * n[2], n[1] - y / 16 * n[2]) for x, y in wave], 0.0
    if kind == "A":
        return color, _arc(n[1:5], *n[5:]), n[0]
    width = n.pop(0) if kind == "L" else 0.0
    return color, list(zip(n[::2], n[1::2], strict=True)), width


def _arc(place: Sequence[float], start: float, end: float) -> list[Point]:
    cx, cy, rx, ry = place
    turns = (math.radians(start + (end - start) * i / 24) for i in range(25))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in turns]


class _Pen:
    """Draws shapes in a style."""

    def __init__(self, canvas: Any, how: Look, paper: Color, rng: Random):
        self.canvas, self.how, self.paper, self.rng = canvas, how, paper, rng
        self.shift = rng.uniform(-0.03, 0.03)  # of all hues
        self.red = (rng.randint(170, 220), rng.randint(20, 50), rng.randint(25, 50))

    def shape(self, shape: str, move: Move) -> None:
        letter, points, width = outline(shape)
        own = self._shifted(_COLORS[letter])
        if self.how.wobble:
            points = self._shaky(points, closed=not width)
        half = SIZE * _FINE / 2
        at = [(half + x * half, half + y * half) for x, y in map(move, points)]
        if width:
            rule = self.how.fill or self.how.outline
            color = self._color("red" if rule == "cut" else rule, own, letter)
            self.canvas.line(at, color, round(width * _FINE * 0.8), joint="curve")
            return
        if self.how.fill:
            self.canvas.polygon(at, self._color(self.how.fill, own, letter))
        if self.how.outline:
            line = round(self.how.width * 1.6 * _FINE)
            self.canvas.line([*at, at[0]], self._color(self.how.outline, own, letter), line, joint="curve")

    def _shaky(self, points: Sequence[Point], closed: bool) -> list[Point]:
        """Points of a hand that trembles: more of them, each a little off."""
        ends = [*points, points[0]] if closed else list(points)
        fine = [
            (a[0] + (b[0] - a[0]) * t / 3, a[1] + (b[1] - a[1]) * t / 3)
            for a, b in itertools.pairwise(ends)
            for t in range(3)
        ]
        off = self.how.wobble
        return [(x + self.rng.gauss(0, off) * 0.6, y + self.rng.gauss(0, off) * 0.6) for x, y in fine]

    def _shifted(self, color: Color) -> Color:
        hue, light, full = colorsys.rgb_to_hls(*(part / 255 for part in color))
        return _rgb(hue + self.shift, light, full)

    def _color(self, rule: str, own: Color, letter: str) -> Color:
        if rule == "own":
            return own
        if rule == "ink":
            return (40, 40, 60)
        if rule == "gold":
            return (240, 205, 120)
        if rule == "red" or (rule == "cut" and letter not in "wyscpe"):
            return self.red
        if rule == "cut":  # a hole in the red paper
            return self.paper
        hue, light, full = colorsys.rgb_to_hls(*(part / 255 for part in own))
        if rule == "bright":
            return _rgb(hue, max(light, 0.45), min(1, full * 1.2))
        if rule == "pale":
            return _rgb(hue, 0.4 + 0.6 * light, full * 0.8)
        return _rgb(hue, 0.82, full * 0.6)  # chalk


def _rgb(hue: float, light: float, full: float) -> Color:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue % 1, light, full))
    return red, green, blue
