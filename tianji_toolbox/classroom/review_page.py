"""The page of ``tianji review``, a Streamlit script; what it shows is made in ``review.py``.

Arguments: the merged file, the file of decisions, the threshold, then the rules that are off.
Every run of the script reads the decisions from their file, so that a reload, a second tab or a
restart shows what is there. The first open row of the page carries the shortcut keys.
"""

import html
import sys
from pathlib import Path

import streamlit as st

from tianji_helpers.dataset import clean, decisions
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import review

SIZE = 10  # rows a page
ANY = "全部"
STATES = {"待定": "open", "已定": "decided", ANY: ""}
VERDICTS = {ANY: "", "弃用的": "reject", "修补的": "keep"}
DONE = {"keep": "已保留", "edit": "已改写", "reject": "已弃用"}
STYLE = """
<style>
.stMainBlockContainer {max-width: 60rem; padding: 2.5rem 1rem 4rem}
.row-head {display: flex; flex-wrap: wrap; gap: .3rem .6rem; align-items: baseline}
.row-head b {font-size: 1.05rem}
.row-head small {opacity: .65}
.tag {border-radius: 1rem; padding: .05rem .6rem; font-size: .82rem; white-space: nowrap}
.tag.reject {background: rgba(220, 60, 50, .16)}
.tag.keep {background: rgba(30, 130, 220, .16)}
.tag.done {background: rgba(20, 150, 90, .2)}
.tag.done.reject {background: rgba(220, 60, 50, .3)}
.reason {font-size: .9rem; opacity: .8; margin: .15rem 0 .5rem; overflow-wrap: anywhere}
.note {font-size: .9rem; opacity: .8; overflow-wrap: anywhere}
.texts {margin: 0; padding: 0 !important; line-height: 1.7;
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .35rem .8rem}
.texts dt {margin: 0; opacity: .6; font-size: .85rem; line-height: 2}
.texts dd {margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  max-height: 16rem; overflow-y: auto}
.texts del {background: rgba(220, 60, 50, .3); border-radius: .2rem}
.texts ins {background: rgba(20, 150, 90, .35); border-radius: .2rem; text-decoration: none}
.texts i {font-size: .75em; opacity: .7; font-style: normal; border: 1px solid; border-radius: .2rem;
  padding: 0 .2em; margin: 0 .1em}
[data-testid="InputInstructions"] {display: none}
@media (max-width: 640px) {.st-key-keys {display: none}}
[class*="st-key-current-"] {border-left: .35rem solid rgb(30, 130, 220)}
</style>
"""
# The cursor goes where a person writes next, as soon as the box is there. A script that stands alone in
# its HTML is not run.
FOCUS = """
<span></span>
<script>
(function focus(tries) {
  const box = document.querySelector(".st-key-edited textarea")
  if (box) box.focus(); else if (tries) setTimeout(focus, 50, tries - 1)
})(100)
</script>
"""


@st.cache_resource(show_spinner="正在按规则过一遍……", max_entries=1)
def load(source: str, changed: int, threshold: float, off: tuple[str, ...]):
    """Return ``review.load``; changed (the file's time) makes a new file a new call."""
    return review.load(source, off=off, threshold=threshold)


def attempt(call, *args) -> bool:
    """Call and return whether it went well; what went wrong is said at the top of the page."""
    try:
        call(*args)
    except CourseError as error:
        st.session_state.problem = str(error)
        return False
    return True


def decide(path: str, item: review.Reviewed, action: str) -> None:
    text = st.session_state.edited if action == "edit" else None
    if attempt(decisions.append, path, item.key, action, text):
        st.session_state.editing = ""
        st.session_state.note = f"第 {item.row} 条：{DONE[action]}。"
        if text and (reason := review.warning(item, text)):
            st.session_state.note += f"照您的文字记下了；提醒一句，规则会说：{reason}。"


def agree(path: str, items: list[review.Reviewed]) -> None:
    """Write the rules' own verdict for every item."""
    rows = [{"key": item.key, "action": item.verdict} for item in items]
    if attempt(decisions.extend, path, rows):
        st.session_state.editing = ""
        st.session_state.note = f"{len(items)} 条：照规则的意见记下了。"


def take_back(path: str, last: dict, items: list[review.Reviewed]) -> None:
    if attempt(decisions.undo, path, last["key"]):
        row = next((f"第 {item.row} 条" for item in items if item.key == last["key"]), "别的文件里的一条")
        st.session_state.note = f"{row}：撤销了“{DONE[last['action']]}”。"


def edit(key: str) -> None:
    st.session_state.editing = key


def put_off(key: str) -> None:
    st.session_state.put_off.add(key)


def main(source: str, path: str, threshold: str, *off: str) -> None:
    st.set_page_config(page_title="复核", page_icon="🧧", layout="centered")
    st.html(STYLE)
    st.session_state.setdefault("editing", "")
    st.session_state.setdefault("put_off", set())
    try:
        changed = Path(source).stat().st_mtime_ns if Path(source).exists() else 0
        items, titles = load(source, changed, float(threshold), off)
        standing = decisions.history(path)
    except CourseError as error:
        st.session_state.problem = str(error)
        items = None
    if problem := st.session_state.pop("problem", ""):
        st.error("出了问题：")
        st.code(problem, language=None, wrap_lines=True)
    if items is None:
        return
    decided = {row["key"]: row for row in standing}
    header(items, standing, decided, path)
    found, filters = filtered(items, titles, decided)
    found.sort(key=lambda item: item.key in st.session_state.put_off)
    if not found:
        st.info("这里没有要看的记录了。" if items else "规则没有修补也没有弃用任何一条，没有要复核的。")
        return
    cards, below = st.container(), st.container()
    with below.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="below"
    ):
        # a key of its own for each choice of filters: another choice begins at page 1
        page = st.pagination(-(-len(found) // SIZE), key=f"page-{hash(filters)}")
        shown = found[(page - 1) * SIZE : page * SIZE]
        still = [item for item in shown if item.key not in decided]
        st.button(
            f"这一页剩下的 {len(still)} 条都照规则的意见",
            key="agree",
            icon=":material/done_all:",
            disabled=not still,
            on_click=agree,
            args=(path, still),
        )
    current = still[0].key if still else ""
    with cards:
        for item in shown:
            card(item, titles, decided.get(item.key), path, item.key == current)


def header(items: list[review.Reviewed], standing: list[dict], decided: dict[str, dict], path: str) -> None:
    """Show how much is done, what was done last, and the way back."""
    actions = [decided[item.key]["action"] for item in items if item.key in decided]
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader("复核", anchor=False, width="content")
        st.button(
            "撤销上一步",
            key="undo",
            icon=":material/undo:",
            shortcut="0",
            disabled=not standing,
            on_click=take_back,
            args=(path, standing[-1] if standing else None, items),
        )
    counts = "，".join(f"{DONE[action][1:]} {actions.count(action)}" for action in DONE)
    st.progress(
        len(actions) / len(items) if items else 1.0, f"已定 {len(actions)} / {len(items)} 条（{counts}）"
    )
    note = review.escape(st.session_state.pop("note", "")) or "每定一条就存一条，随时可以关掉，下次接着看。"
    st.html(f'<div class="note">{note}</div>')


def filtered(
    items: list[review.Reviewed], titles: dict[str, str], decided: dict[str, dict]
) -> tuple[list[review.Reviewed], tuple[str, ...]]:
    """Show the filters; return the items that pass them, and what was chosen."""
    with st.container(horizontal=True, vertical_alignment="top"):
        state = st.segmented_control("进度", list(STATES), default="待定", key="state", required=True)
        verdict = st.segmented_control(
            "规则的意见", list(VERDICTS), default=ANY, key="verdict", required=True
        )
        numbers = {name: sum(name in item.rules for item in items) for name in titles}
        rule = st.selectbox(
            "规则",
            ["", *titles],
            format_func=lambda name: f"{titles[name]}（{numbers[name]}）" if name else "全部规则",
            key="rule",
        )
        words = st.text_input("搜索", key="words", placeholder="文字或编号", max_chars=100)
    found = review.select(
        items, decided, state=STATES[state], verdict=VERDICTS[verdict], rule=rule, words=words
    )
    with st.container(key="keys"):
        st.caption(
            f"找到 {len(found)} 条。带蓝边的那条可以按键盘：1 保留，2 改写，3 弃用，4 先放着；0 撤销上一步。"
        )
    return found, (state, verdict, rule, words)


def card(
    item: review.Reviewed, titles: dict[str, str], decision: dict | None, path: str, current: bool
) -> None:
    """Show one item: what was asked, what the rules say, the texts, and the choice."""
    with st.container(border=True, key=f"{'current' if current else 'row'}-{item.row}"):
        st.html(described(item, titles, decision))
        if st.session_state.editing == item.key:
            editor(item, decision, path)
        else:
            choice(item, path, current)


def described(item: review.Reviewed, titles: dict[str, str], decision: dict | None) -> str:
    """Return the card's HTML; every text of the row is escaped."""
    names = "、".join(titles[name] for name in item.rules)
    tags = (
        f'<span class="tag {item.verdict}">{"弃用" if item.reason else "修补"}：{html.escape(names)}</span>'
    )
    if decision:
        action = decision["action"]
        tags += f'<span class="tag done {action}">{DONE[action]}</span>'
    reason = review.escape(item.reason)
    if item.copies:
        reason += f"{'；' if reason else ''}另有 {item.copies} 条一字不差，一起处理"
    old, new = review.differences(item.before, item.after)
    texts = [("原文", old), ("修后", new)] if item.after != item.before else [("原文", old)]
    if item.other:
        texts.append((f"第 {item.other[0]} 条", review.differences(item.after, item.other[1])[1]))
    if decision and decision["action"] == "edit":
        texts.append(("您的", review.escape(decision["output"])))
    rows = "".join(f"<dt>{label}</dt><dd>{text or '（空）'}</dd>" for label, text in texts)
    head = f"<small>第 {item.row} 条</small><b>{review.escape(item.request)}</b>{tags}"
    return (
        f'<div class="row-head">{head}</div><div class="reason">{reason}</div><dl class="texts">{rows}</dl>'
    )


def choice(item: review.Reviewed, path: str, current: bool) -> None:
    """Show the buttons of an item."""
    keys = dict(zip(("keep", "edit", "reject", "later"), "1234", strict=True)) if current else {}

    def button(label: str, name: str, icon: str, call, *args, disabled: bool = False) -> None:
        st.button(
            label,
            key=f"{name}-{item.row}",
            icon=f":material/{icon}:",
            shortcut=keys.get(name),
            disabled=disabled,
            on_click=call,
            args=args,
        )

    with st.container(horizontal=True, gap="small"):
        button("保留", "keep", "check", decide, path, item, "keep", disabled=not item.can_keep)
        button("改写", "edit", "edit", edit, item.key)
        button("弃用", "reject", "close", decide, path, item, "reject")
        if current:
            button("先放着", "later", "schedule", put_off, item.key)


def editor(item: review.Reviewed, decision: dict | None, path: str) -> None:
    """Show the form in which a person writes a better answer."""
    text = decision["output"] if decision and decision["action"] == "edit" else item.after or item.before
    with st.form("editor", border=False):
        st.text_area(
            "改写成（照您写的保留，不再经过规则；Ctrl+Enter 保存）",
            text[: clean.MAX_CHARS],
            key="edited",
            max_chars=clean.MAX_CHARS,
        )
        with st.container(horizontal=True, gap="small"):
            st.form_submit_button(
                "保存", key="save", type="primary", on_click=decide, args=(path, item, "edit")
            )
            st.form_submit_button("取消", key="cancel", on_click=edit, args=("",))
    st.html(FOCUS, unsafe_allow_javascript=True)


if __name__ == "__main__":  # helper processes of cleaning import this file under another name
    main(*sys.argv[1:])
