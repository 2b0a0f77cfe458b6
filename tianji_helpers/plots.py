"""Figures that read well: Chinese glyphs, a real minus sign, a white face under any theme.

matplotlib ships no Chinese font and students have no root to install one, so the font comes from
the ``mplfonts`` package. Only its file is used: the package is not imported, and nothing is written
into the user's matplotlib configuration. Emoji have no glyph in it; figures do without them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from tianji_helpers.errors import CourseError

FONT = "Noto Sans CJK SC"

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow and black are left
# out because they are hard to see on white and against axes
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def font_file() -> Path:
    """Return the file of the Chinese font. Raises CourseError if the package or file is missing."""
    spec = find_spec("mplfonts")
    if spec is None or spec.origin is None:
        raise CourseError(
            "没有安装中文字体包 mplfonts，图里的汉字会变成方框。请运行 make lab 或 make course 重装环境。"
        )
    path = Path(spec.origin).parent / "fonts" / "NotoSansCJKsc-Regular.otf"
    if not path.is_file():
        raise CourseError(
            f"字体包 mplfonts 里没有 {path.name}。请重装：pip install --force-reinstall mplfonts"
        )
    return path


def setup() -> None:
    """Set matplotlib up for the course's figures; calling it again changes nothing.

    Raises CourseError if the Chinese font is not installed.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib import font_manager

    file = str(font_file())
    if all(entry.fname != file for entry in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(file)
    matplotlib.rcParams.update(
        {
            "font.family": "sans-serif",
            # DejaVu steps in, glyph by glyph, for symbols that the Chinese font lacks
            "font.sans-serif": [FONT, "DejaVu Sans"],
            "axes.unicode_minus": True,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            # opaque white: on a transparent face the black labels vanish in a dark theme
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.transparent": False,
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
        }
    )


def drawable(text: str) -> str:
    """Return ``text`` with □ in place of what the Chinese font cannot draw (emoji, control characters).

    >>> drawable("生日🎂")
    '生日□'
    """
    from matplotlib.font_manager import get_font

    glyph = get_font(str(font_file())).get_char_index
    return "".join(char if char.isprintable() and glyph(ord(char)) else "□" for char in text)


@dataclass(frozen=True)
class Chips:
    """Tokens in a row, each in a box of its group's colour: what a notebook cell shows.

    texts: what to write in each box. groups: the group of each box, an index of ``names``; group 0 is
    grey. names: what the groups are called. notes: small print under each text (token ids, say), or
    none. Where there is no HTML it is text, one line a run of one group:

    >>> Chips(["a", "b", "c"], [0, 1, 1], ["提示", "回答"])
    提示　a
    回答　b c
    """

    texts: Sequence[str]
    groups: Sequence[int]
    names: Sequence[str]
    notes: Sequence[object] = ()

    def __repr__(self) -> str:
        """Return the groups one below the other."""
        runs = groupby(zip(self.groups, self.texts, strict=True), key=lambda pair: pair[0])
        return "\n".join(f"{self.names[group]}　{' '.join(text for _, text in run)}" for group, run in runs)

    def _repr_html_(self) -> str:
        # every colour is given, so that a dark theme changes none of them
        insides = [escape(text) for text in self.texts]
        if self.notes:
            pairs = zip(insides, self.notes, strict=True)
            insides = [f"{text}<br><small>{escape(str(note))}</small>" for text, note in pairs]
        boxes = map(self._box, self.groups, insides)
        legend = [self._box(group, escape(self.names[group])) for group in sorted(set(self.groups))]
        return f"<div>{''.join(legend)}</div><div>{''.join(boxes)}</div>"

    @staticmethod
    def _box(group: int, inside: str) -> str:
        color = COLORS[group - 1] if group else "#999999"
        weight = "bold" if group else "normal"
        return (
            f'<span style="display: inline-block; margin: 2px; padding: 1px 5px; text-align: center; '
            f"color: #111111; background-color: #ffffff; font-weight: {weight}; "
            f'border: 1px solid {color}; border-bottom: 4px solid {color}">{inside}</span>'
        )


@dataclass(frozen=True)
class Talk:
    """A conversation, with one answer or several to each request: what a notebook cell shows.

    turns: (request, {who answers: what}). Where there is no HTML it is text:

    >>> Talk([("祝姐姐生日", {"训练前": "祝你", "训练后": "生日快乐！"})])
    你：祝姐姐生日
    训练前：祝你
    训练后：生日快乐！
    """

    turns: Sequence[tuple[str, Mapping[str, str]]]

    def __repr__(self) -> str:
        """Return the turns one below the other."""
        return "\n".join(
            f"{who}：{said}"
            for asked, answers in self.turns
            for who, said in {"你": asked, **answers}.items()
        )

    def _repr_html_(self) -> str:
        # as with Chips, every colour is given
        names = list(dict.fromkeys(who for _, answers in self.turns for who in answers))
        bubbles = []
        for asked, answers in self.turns:
            bubbles.append(self._bubble("right", "#e6e6e6", "#777777", "", asked))
            for who, said in answers.items():
                color = COLORS[(len(names) - 1 - names.index(who)) * 2] if len(names) > 1 else COLORS[0]
                bubbles.append(self._bubble("left", "#ffffff", color, who, said))
        return (
            '<div style="max-width: 640px; padding: 8px; border-radius: 8px; background-color: #f5f5f5; '
            f'color: #111111">{"".join(bubbles)}</div>'
        )

    @staticmethod
    def _bubble(side: str, background: str, color: str, who: str, said: str) -> str:
        name = f'<small style="color: {color}; font-weight: bold">{escape(who)}</small><br>' if who else ""
        inside = name + escape(said).replace("\n", "<br>")
        return (
            f'<div style="text-align: {side}; margin: 6px 0"><span style="display: inline-block; '
            f"text-align: left; max-width: 80%; padding: 5px 10px; border-radius: 10px; "
            f"border: 1px solid {color}; color: #111111; "
            f'background-color: {background}">{inside}</span></div>'
        )
