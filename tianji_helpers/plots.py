"""Figures that read well: Chinese glyphs, a real minus sign, a white face under any theme.

matplotlib ships no Chinese font and students have no root to install one, so the font comes from
the ``mplfonts`` package. Only its file is used: the package is not imported, and nothing is written
into the user's matplotlib configuration. Emoji have no glyph in it; figures do without them.
"""

from importlib.util import find_spec
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
    from matplotlib import cycler, font_manager

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
