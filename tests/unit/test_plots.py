"""Figures: the Chinese font is there, drawn without a missing glyph, on an opaque face."""

import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from tianji_helpers import plots
from tianji_helpers.errors import CourseError


@pytest.fixture
def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context():
        yield pyplot
        pyplot.close("all")


def draw(pyplot, text):
    figure, axes = pyplot.subplots()
    axes.plot([-2, -1, 0], [-3, -1, 1])
    axes.set_title(text)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        figure.savefig("/dev/null", format="png")


def test_chinese_and_minus_have_glyphs(pyplot):
    plots.setup()
    draw(pyplot, "祝姐姐生日快乐：损失（每个词元）− ✓ → ，。！？、《》“”…")


def test_the_test_would_notice_a_missing_glyph(pyplot):
    pyplot.rcParams.update({"font.family": "DejaVu Sans"})
    with pytest.raises(UserWarning, match="Glyph"):
        draw(pyplot, "祝福")


def test_setup_twice_registers_the_font_once(pyplot):
    from matplotlib import font_manager

    plots.setup()
    before = len(font_manager.fontManager.ttflist)
    plots.setup()
    assert len(font_manager.fontManager.ttflist) == before
    found = font_manager.findfont(plots.FONT, fallback_to_default=False)  # ours, or the system's own
    assert "NotoSansCJK" in Path(found).name


def test_the_face_is_opaque_white(pyplot, tmp_path):
    plots.setup()
    figure, _ = pyplot.subplots()
    figure.savefig(tmp_path / "face.png", transparent=None)
    corner = pyplot.imread(tmp_path / "face.png")[0, 0]
    assert corner.tolist() == [1, 1, 1, 1]


def test_nothing_is_imported_and_no_configuration_is_written(tmp_path):
    code = (
        "import sys; from tianji_helpers import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.setup()\n"
        "assert 'mplfonts' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"MPLCONFIGDIR": str(tmp_path), "HOME": str(tmp_path)}
    )
    assert not list(tmp_path.rglob("matplotlibrc"))


def test_a_missing_font_names_the_fix(monkeypatch, tmp_path):
    spec = find_spec("mplfonts")
    spec.origin = str(Path(tmp_path) / "__init__.py")
    monkeypatch.setattr(plots, "find_spec", lambda name: spec)
    with pytest.raises(CourseError, match="force-reinstall"):
        plots.font_file()


def test_chips_escape_their_text_and_name_every_group():
    chips = plots.Chips(["<bos>", "姐姐", "！"], [0, 1, 1], ["不算损失", "算损失"], [2, 11711, 17529])
    html = chips._repr_html_()
    assert "<bos>" not in html and "&lt;bos&gt;<br><small>2</small>" in html
    assert html.count("<span") == 3 + 2 and "不算损失" in html and plots.COLORS[0] in html
    assert repr(chips) == "不算损失　<bos>\n算损失　姐姐 ！"


def test_what_the_font_lacks_is_drawn_as_a_box(pyplot):
    plots.setup()
    draw(pyplot, plots.drawable("姐姐🎂\n，生日快乐"))
    assert plots.drawable("姐姐🎂\n") == "姐姐□□"


def test_a_talk_shows_every_answer_as_text_whatever_a_model_wrote():
    talk = plots.Talk([("祝<b>姐姐</b>", {"训练前": "祝你\n祝你", "训练后": "<script>生日快乐"})])
    assert repr(talk) == "你：祝<b>姐姐</b>\n训练前：祝你\n祝你\n训练后：<script>生日快乐"
    page = talk._repr_html_()
    assert "<script" not in page and "<b>" not in page and "祝你<br>祝你" in page
    assert page.index("训练前") < page.index("训练后") and page.count("background-color") == 4
