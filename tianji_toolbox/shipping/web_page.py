"""The page of ``tianji web``: a Streamlit script around ``demo.Studio``.

Its one argument is a JSON object with ``demo.Studio``'s arguments. What a visitor types and what a model
says is shown as text: escaped here, and never handed to Markdown.
"""

import json
import sys
import traceback
from contextlib import closing
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from tianji_helpers import wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import material, pictures
from tianji_toolbox.shipping import demo

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_HISTORY = 20  # questions
PICK, WRITE = "挑着写", "自己写"

COPY_HTML = '<button type="button">复制</button>'
COPY_CSS = """
button { font: inherit; font-size: .85rem; color: #a6281f; background: none; border: 1px solid #ecd3c2;
  border-radius: .5rem; padding: .15rem .8rem; cursor: pointer; }
button:hover { background: #fdeee3; }
"""
# navigator.clipboard is only there on https and on this machine; elsewhere the old way does
COPY_JS = """
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  button.onclick = async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(data);
    } catch {
      const field = document.createElement("textarea");
      field.value = data;
      document.body.append(field);
      field.select();
      done = document.execCommand("copy");
      field.remove();
    }
    button.textContent = done ? "已复制" : "复制不了，请手动选中";
    setTimeout(() => { button.textContent = "复制"; }, 1500);
  };
}
"""


@st.cache_resource(show_spinner="正在加载模型，第一次要等一会儿……")
def load_studio(arguments: str) -> demo.Studio:
    """Load the models once for all visitors."""
    return demo.Studio(**json.loads(arguments))


@st.cache_resource(show_spinner=False)
def copy_button():
    """Register the button that copies a text, once."""
    return st.components.v2.component("copy_wish", html=COPY_HTML, css=COPY_CSS, js=COPY_JS)


def main(arguments: str) -> None:
    """Draw the page; whatever goes wrong is said in words."""
    st.set_page_config(page_title="送祝福", page_icon="🏮")
    st.html(Path(__file__).with_name("web_page.css"))
    st.html('<div class="hero"><h1>送祝福</h1><p>挑一挑，或写一句，让微调过的小模型替你说</p></div>')
    try:
        serve_visitor(load_studio(arguments))
    except CourseError as error:
        st.error(str(error), icon="🙏")
    except Exception:
        traceback.print_exc()
        st.error("出了意外，这一句没有写成。请换一句再试；还不行就刷新页面。", icon="🙏")
    with st.container():
        show_history()


def serve_visitor(studio: demo.Studio) -> None:
    """Draw the controls; if the button was pressed, let the answers come in and remember them."""
    question, voice, before, candidates = ask(studio)
    if question is None:
        return
    with st.container():
        answers = say(studio, question, voice, before, candidates)
    past = st.session_state.setdefault("past", [])
    past.insert(0, (asked(question), answers))
    del past[MAX_HISTORY:]
    st.rerun()


def ask(studio: demo.Studio) -> tuple[demo.Asked | None, str, bool, int]:
    """Draw the controls; return the question once the button is pressed, who answers, and how often."""
    matrix = wishes.load()
    with st.container(key="ask"):
        picture = upload() if studio.sees else None
        how = st.segmented_control(
            "怎样说", [PICK, WRITE], default=PICK, required=True, label_visibility="collapsed"
        )
        if how == PICK:
            left, right = st.columns(2)
            recipient = left.selectbox("送给谁", matrix.recipients)
            scenes = [scene for scene in matrix.scenes if matrix.suitable(recipient, scene)]
            scene = "" if picture else right.selectbox("为了什么", scenes)  # the picture says it
            style = st.pills(
                "风格",
                matrix.styles,
                default=wishes.DEFAULT_STYLE,
                required=True,
                help=f"课程默认只用{'、'.join(matrix.usual_styles)}来训练；其余的风格，要先用那样的数据训练过才像。",
            )
            told = st.text_input(
                "还想说的事（可以不填）",
                placeholder="例如：她刚考上研究生,30字以内,称呼她小满",
                max_chars=200,
            )
            text = matrix.request(recipient, scene, style) if scene else material.request(recipient, style)
            text += f",{told.strip()}" if told.strip() else ""
        else:
            text = st.text_area(
                f"想说的话（最多 {demo.MAX_REQUEST} 个字）",
                placeholder="例如：祝姐姐生日,小红书风格",
                height=100,
            )
        voice = studio.voices[0]
        if len(studio.voices) > 1:
            voice = st.segmented_control("谁来写（适配器）", studio.voices, default=voice, required=True)
        before = studio.comparable and not picture and st.toggle("前后对比：基座模型和微调后的并排写")
        with st.expander("生成设置"):
            left, right = st.columns(2)
            temperature = left.slider("温度（0 = 每次都选最可能的词）", 0.0, demo.MAX_TEMPERATURE, 0.8, 0.1)
            top_p = right.slider("top-p（只在最可能的这部分词里挑）", 0.05, 1.0, 0.9, 0.05)
            length = left.slider("最多多少个词元", 10, demo.MAX_TOKENS, 100, 10)
            greedy = temperature == 0  # several answers would all be the same
            candidates = right.slider("写几句来挑", 1, demo.MAX_CANDIDATES, 1, disabled=greedy)
        pressed = st.button("送祝福", type="primary", width="stretch")
    question = demo.Asked(text, temperature, top_p, length, picture) if pressed else None
    return question, voice, before, 1 if greedy else candidates


def upload() -> "Image | None":
    """Let a visitor send a picture; return it opened, and show it small. What is none is refused in words."""
    file = st.file_uploader(
        "贺卡或照片（可以不传）",
        type=["png", "jpg", "jpeg", "webp", "bmp"],
        max_upload_size=pictures.LARGEST_FILE // 1_000_000,
        help="传了图片，模型就看着图写，不用再说是为了什么。图片只在内存里用一次，不保存。",
    )
    if file is None:
        return None
    picture = pictures.open_picture(file.getvalue(), "上传的文件")  # its own name is a stranger's text
    small = picture.copy()
    small.thumbnail((240, 240))
    st.image(small)
    return picture


def say(
    studio: demo.Studio, question: demo.Asked, voice: str, before: bool, candidates: int
) -> list[tuple[str, bool, str]]:
    """Let the answers come in; return (label, from the base model, text) of each."""
    show_asked(asked(question))
    turns = [(voice, False)] * candidates
    cells = [st.container() for _ in turns]
    if before:
        turns = [turn for pair in zip([(demo.BASE, True)] * candidates, turns, strict=True) for turn in pair]
        cells = [cell for _ in range(candidates) for cell in st.columns(2)]
    answers = []
    for cell, (label, is_base) in zip(cells, turns, strict=True):
        with cell:
            show_label(label, before or len(studio.voices) > 1)
            place = st.empty()
            text = ""
            with closing(studio.answer(voice, question, before=is_base)) as steps:
                for step in steps:
                    text = step.text
                    place.html(card(text, is_base, live=True, ahead=step.ahead))
            place.html(card(text, is_base))
        answers.append((label, is_base, text))
    return answers


def show_history() -> None:
    """Draw the newest answers in full, the earlier ones below."""
    past = st.session_state.get("past", [])
    if not past:
        return
    (text, answers), *earlier = past
    show_answers("now", text, answers)
    if earlier:
        with st.expander(f"之前的祝福（{len(earlier)}）"):
            if st.button("清空"):
                del past[1:]
                st.rerun()
            for number, (text, answers) in enumerate(earlier):
                show_answers(f"past_{number}", text, answers, "old")


def show_answers(key: str, text: str, answers: list[tuple[str, bool, str]], size: str = "") -> None:
    """Draw one question with its answers, the base model's to the left of the tuned one's."""
    show_asked(text)
    compared = any(is_base for _, is_base, _ in answers)
    cells = [st.container() for _ in answers]
    if compared:
        cells = [cell for _ in answers[::2] for cell in st.columns(2)]
    for number, (cell, (label, is_base, answer)) in enumerate(zip(cells, answers, strict=True)):
        with cell:
            show_label(label, compared or label != demo.TUNED)
            st.html(card(answer, is_base, size))
            if answer:
                copy_button()(key=f"copy_{key}_{number}", data=answer)


def asked(question: demo.Asked) -> str:
    """Return what was asked, with a mark where there was a picture."""
    return f"🖼 {question.text}" if question.image else question.text


def show_asked(text: str) -> None:
    """Draw what was asked, as text."""
    st.html(f'<div class="asked">{escape(text)}</div>')


def show_label(label: str, shown: bool) -> None:
    """Draw who answers, where there is a choice."""
    if shown:
        st.html(f'<div class="asked"><b>{escape(label)}</b></div>')


def card(text: str, is_base: bool, size: str = "", *, live: bool = False, ahead: int = 0) -> str:
    """Return one answer as HTML, escaped; while it comes, with a caret or the place in the line."""
    body = escape(text)
    if ahead:
        body = f'<span class="wait">排队中，前面还有 {ahead} 位……</span>'
    elif live:
        body += '<span class="caret">▍</span>'
    elif not text:
        body = '<span class="wait">（模型没有说话，就停下了）</span>'
    return f'<div class="wish {"before" if is_base else ""} {size}">{body}</div>'


if __name__ == "__main__":
    main(sys.argv[1])
