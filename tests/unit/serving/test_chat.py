"""The chat: history, commands, limits, and the widget, on the real base model."""

import io
import shutil

import pytest

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.serving import Chat, repl, widget
from tianji_helpers.training import inference


@pytest.fixture(scope="module")
def loaded(base_dir):
    return inference.load(base_dir)


def test_history_joins_the_next_prompt_and_reset_forgets_it(loaded, monkeypatch):
    asked = []
    stream = inference.stream

    def listen(model, tokenizer, chat, **settings):
        asked.append(chat)
        return stream(model, tokenizer, chat, **settings)

    monkeypatch.setattr(inference, "stream", listen)
    chat = Chat(*loaded, system="你是大师", max_new_tokens=5)
    first = "".join(chat.say(" 祝姐姐生日 "))
    assert first and chat.history == [("祝姐姐生日", first.strip())]
    "".join(chat.say("再来一句"))
    assert asked[1] == inference.messages("再来一句", "你是大师", [("祝姐姐生日", first.strip())])
    chat.reset()
    assert "".join(chat.say("祝姐姐生日")) == first
    assert asked[2] == asked[0]


def test_repl_works_on_a_pipe_and_shows_no_template_token(base_dir):
    sink = io.StringIO()
    repl(base_dir, max_new_tokens=4, source=io.StringIO("祝姐姐生日\nRESET\n\nEXIT\n祝大舅发财\n"), sink=sink)
    said = sink.getvalue()
    assert said.count("模型：") == 1 and "历史已清空" in said and said.endswith("再见。\n")
    assert "<|" not in said


def test_too_long_a_line_is_answered_in_words_and_the_chat_goes_on(base_dir):
    sink = io.StringIO()
    repl(base_dir, max_new_tokens=2, source=io.StringIO("祝" * 2_001 + "\n祝姐姐生日"), sink=sink)
    assert "这句话有 2001 个字，最多 2000 个" in sink.getvalue()
    assert sink.getvalue().count("模型：") == 2


def test_system_prompt_of_the_training_is_the_default(base_dir, tmp_path, monkeypatch):
    merged = tmp_path / "merged"
    shutil.copytree(base_dir, merged)
    records.write_provenance(merged, stage="06_merge_chat", parameters={"system": "你是大师"})
    systems = []
    real = inference.messages
    monkeypatch.setattr(
        inference,
        "messages",
        lambda text, system, history: systems.append(system) or real(text, system, history),
    )
    for system in (None, "", "你是诗人"):
        repl(merged, system=system, max_new_tokens=1, source=io.StringIO("你好"), sink=io.StringIO())
    repl(base_dir, max_new_tokens=1, source=io.StringIO("你好"), sink=io.StringIO())
    assert systems == ["你是大师", "", "你是诗人", ""]


@pytest.mark.parametrize(
    ("settings", "message"), [({"temperature": -1}, "temperature 是 -1"), ({"max_new_tokens": 0}, "至少要 1")]
)
def test_impossible_settings_are_refused(loaded, settings, message):
    with pytest.raises(CourseError, match=message):
        Chat(*loaded, **settings)


def test_widget_sends_and_forgets(loaded):
    chat = Chat(*loaded, max_new_tokens=3)
    row, shown = widget(chat).children
    line, send, forget = row.children
    line.value = "祝姐姐生日"
    send.click()
    assert shown.value.startswith("你：祝姐姐生日\n模型：") and line.value == "" and not send.disabled
    send.click()
    assert "请先输入一句话" in shown.value
    forget.click()
    assert shown.value == "" and chat.history == []
