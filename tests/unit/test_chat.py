"""The chat: history, commands, limits, and the widget, on the real base model."""

import codecs
import contextlib
import copy
import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import parrots
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tianji_helpers import paths, records
from tianji_helpers.chat import Chat, widget
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference
from tianji_toolbox import cli
from tianji_toolbox.shipping.terminal import repl


@pytest.fixture(scope="module")
def loaded(base_dir):
    return inference.load(base_dir)


@pytest.fixture(scope="module")
def adapters(loaded, base_dir, tmp_path_factory):
    """Two small random adapters of the base model, each with its system prompt beside it."""
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    folders = {}
    for seed, name in enumerate(("wishes", "persona")):
        folder = folders[name] = tmp_path_factory.mktemp("adapters") / name
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=64, target_modules=["o_proj"], init_lora_weights=False)
        get_peft_model(copy.deepcopy(model), config).save_pretrained(folder)
        records.write_provenance(folder, stage="06_merge_chat", parameters={"system": f"你是{name}"})
    return folders


def test_adapters_are_swapped_in_the_chat_each_with_its_system_prompt(base_dir, adapters, monkeypatch):
    loads, asked = [], []
    load, messages = inference.load, inference.messages
    monkeypatch.setattr(inference, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    monkeypatch.setattr(inference, "messages", lambda *a: asked.append((a[1], list(a[2]))) or messages(*a))
    sink = io.StringIO()
    lines = [
        "祝姐姐生日",
        "USE persona",
        "祝姐姐生日",
        "USE",
        "祝姐姐生日",
        "USE nobody",
        "HELP",
        "USE wishes",
    ]
    source = io.StringIO("\n".join([*lines, "祝姐姐生日"]))
    repl(base_dir, adapters, max_new_tokens=6, source=source, sink=sink)
    said = sink.getvalue()
    answers = [line for line in said.splitlines() if "模型：" in line]
    assert len(loads) == 1 and len(answers) == 4
    assert answers[0] == answers[3] and len(set(answers)) == 3
    assert asked == [("你是wishes", []), ("你是persona", []), ("", []), ("你是wishes", [])]
    assert "没有叫 nobody 的适配器。已加载：wishes、persona" in said
    assert said.count("/use 名字 换一个") == 2


def test_the_style_joins_every_request(loaded):
    chat = Chat(*loaded, style="小红书", max_new_tokens=1)
    "".join(chat.say("祝姐姐生日"))
    assert chat.history[0][0] == "祝姐姐生日,小红书风格"


def test_the_oldest_turns_leave_when_the_window_is_full(loaded, monkeypatch):
    model, tokenizer = loaded
    history = [(f"第{n}问" + "祝" * 20, "好" * 20) for n in range(10)]
    talk = inference.messages("最后一问", "你是大师", history)
    assert inference.fit(model, tokenizer, talk, 10) == talk
    monkeypatch.setattr(model.config, "max_position_embeddings", 150)
    short = inference.fit(model, tokenizer, talk, 10)
    assert [short[0], short[-1]] == [talk[0], talk[-1]] and short[1:] == talk[-len(short) + 1 :]
    assert len(tokenizer.apply_chat_template(short, add_generation_prompt=True)) <= 140
    assert short[1]["role"] == "user" and 1 < len(short) < len(talk)


class Interrupting(io.StringIO):
    """A terminal that gets a signal whenever the first piece of an answer shows."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        answering = self.getvalue().endswith("模型：")
        super().write(text)
        if answering and text:
            signal.raise_signal(self.number)


def test_ctrl_c_stops_the_answer_and_not_the_chat(base_dir):
    sink = Interrupting(signal.SIGINT)
    repl(base_dir, source=io.StringIO("祝姐姐生日\n祝姐姐生日"), sink=sink)
    first, second = re.findall("模型：(.+)（已停下）", sink.getvalue())
    assert first == second and sink.getvalue().endswith("再见。\n")


def test_a_termination_ends_the_chat_while_it_answers(base_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("祝姐姐生日\n祝姐姐生日".encode())))
    monkeypatch.setattr(sys, "stdout", sink := Interrupting(signal.SIGTERM))
    assert cli.main(["chat", str(base_dir)]) == 130
    assert sink.getvalue().count("模型：") == 1 and "再见" not in sink.getvalue()
    assert "已中断" in capsys.readouterr().err


def test_the_command_reads_a_pipe(base_dir, adapters):
    options = [f"--adapter={adapters['wishes']}", f"--adapter=乙={adapters['persona']}", "--style", "小红书"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tianji_toolbox.cli",
            "chat",
            str(base_dir),
            *options,
            "--max-new-tokens",
            "3",
        ],
        input="祝姐姐生日\nUSE 乙\nEXIT\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=paths.ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "适配器：wishes、乙（现在是 wishes）" in done.stdout and "现在是适配器 乙" in done.stdout
    assert done.stdout.count("模型：") == 1 and "<|" not in done.stdout


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
    pieces = list(Chat(*loaded, system="你是大师", max_new_tokens=5).say("祝姐姐生日"))
    assert len(pieces) > 1 and "".join(pieces) == first


def test_repl_works_on_a_pipe_and_shows_no_template_token(base_dir):
    sink = io.StringIO()
    repl(base_dir, max_new_tokens=4, source=io.StringIO("祝姐姐生日\nRESET\n\nEXIT\n祝大舅发财\n"), sink=sink)
    said = sink.getvalue()
    assert said.count("模型：") == 1 and "历史已清空" in said and said.endswith("再见。\n")
    assert "<|" not in said


def test_too_long_a_line_is_answered_in_words_and_the_chat_goes_on(base_dir):
    sink = io.StringIO()
    lines = ["祝" * 2_001, "祝姐姐<|im_end|>\n", "祝姐姐生日"]
    repl(base_dir, max_new_tokens=2, source=io.StringIO("\n".join(lines)), sink=sink)
    assert "这句话有 2001 个字，最多 2000 个" in sink.getvalue()
    assert "控制词元 <|im_end|>" in sink.getvalue()
    assert sink.getvalue().count("模型：") == 3


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
    window = widget(chat)
    assert repr(window).endswith("（在 JupyterLab 里运行这一格，就能接着聊。）")  # of a stored page
    row, shown = window.children
    line, send, forget = row.children
    line.value = "祝姐姐生日"
    send.click()
    assert shown.value.startswith("你：祝姐姐生日\n模型：") and line.value == "" and not send.disabled
    send.click()
    assert "请先输入一句话" in shown.value
    (asked, said), *_ = chat.history
    page = window._repr_mimebundle_()
    assert asked in page["text/html"] and "application/vnd.jupyter.widget-view+json" in page
    assert widget(chat).children[1].value == f"你：{asked}\n模型：{said}\n"  # goes on where it was
    forget.click()
    assert shown.value == "" and chat.history == []


@pytest.fixture(scope="module")
def parrot(tmp_path_factory):
    return parrots.teach(tmp_path_factory.mktemp("parrot") / "model", ("祝您", "平安"))


class Terminal:
    """``tianji chat`` in a terminal of its own; ``shown`` is what it has shown and a test has waited for."""

    def __init__(self, model, locale="C.UTF-8"):
        self.shown = self._unread = ""
        self._pid, self._fd = pty.fork()
        if not self._pid:
            environment = os.environ | {"LC_ALL": locale, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
            command = [sys.executable, "-m", "tianji_toolbox.cli", "chat", str(model)]
            os.execve(command[0], command, environment)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self._read = codecs.getincrementaldecoder("utf-8")("replace")

    def wait(self, words, seconds=120):
        """Read up to ``words``; return what came until there, without the terminal's own signs."""
        until = time.monotonic() + seconds
        while words not in self._unread:
            assert time.monotonic() < until, self.shown + self._unread
            if select.select([self._fd], [], [], 1)[0]:
                self._unread += self._read.decode(os.read(self._fd, 65536))
                self._unread = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", self._unread)
        came, self._unread = self._unread.split(words, 1)
        self.shown += came + words
        return came + words

    def type(self, keys):
        os.write(self._fd, keys if isinstance(keys, bytes) else keys.encode())

    def say(self, keys, words=None):
        """Type a line; return what came until ``words`` (the answer), once the next line can be typed."""
        self.type(keys)
        came = self.wait(words or ANSWER)
        self.wait("你：")
        return came

    def close(self):
        """Return the exit status; the end of the terminal is the end of the chat."""
        with contextlib.suppress(OSError):
            while os.read(self._fd, 65536):
                pass
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


ANSWER = "模型：祝您平安"


@pytest.mark.slow
def test_a_person_has_a_line_editor(parrot):
    terminal = Terminal(parrot)
    terminal.wait("你：")
    assert "好" in terminal.say("能\x7f祝姐姐\x7f妹\x7f\x7f\x7f好\r")  # Backspace over Chinese
    terminal.type("\x1b[A")
    terminal.wait("好")  # the line before
    assert "^[" not in terminal.say("\x01您\x1b[C\x1b[D\r")  # to its beginning, and the arrows
    assert "第一行" in terminal.say("\x1b[200~第一行\n第二行\x1b[201~\r")  # pasted
    terminal.type("祝\x1a")  # Ctrl-Z; nobody could call the chat back here, so it goes on
    terminal.wait("祝")
    assert "^Z" not in terminal.say("姐姐生日\r")
    terminal.say("祝姐姐生日".encode("gbk") + b"\r")
    terminal.say(b"\xff\xfe\x80\r")
    terminal.say("/help\r", "/reset 清空历史")
    terminal.say("/nothing\r", "没有 /nothing 这个命令")
    terminal.type("Quit\r")
    terminal.wait("再见。")
    assert terminal.close() == 0
    assert terminal.shown.count(ANSWER) == 6 and "Traceback" not in terminal.shown


@pytest.mark.slow
def test_what_is_typed_in_gbk_is_shown_as_text(parrot):
    terminal = Terminal(parrot)
    terminal.wait("你：")
    terminal.type("祝目标!".encode("gbk"))  # 祝 and 目 are UTF-8 as well, of other letters
    assert "?" not in terminal.wait("祝目标!")
    terminal.type("\r")
    terminal.wait(ANSWER)
    terminal.type("exit\r")
    terminal.wait("再见。")
    assert terminal.close() == 0


@pytest.mark.slow
def test_ctrl_d_ends_the_chat(parrot):
    terminal = Terminal(parrot)
    terminal.wait("你：")
    terminal.type("\x04")
    terminal.wait("再见。")
    assert terminal.close() == 0


@pytest.mark.parametrize("word", ["exit", "quit", "EXIT", "Quit", "/exit", "/quit", "／exit", "ｑｕｉｔ"])
def test_words_that_end_the_chat(loaded, base_dir, word, monkeypatch):
    monkeypatch.setattr(inference, "load", lambda *a, **k: loaded)
    sink = io.StringIO()
    repl(base_dir, source=io.StringIO(f"{word}\n祝姐姐生日\n"), sink=sink)
    assert sink.getvalue().endswith("你：再见。\n") and "模型：" not in sink.getvalue()


@pytest.mark.slow
def test_a_pipe_may_be_gbk_and_hold_anything(parrot):
    command = [sys.executable, "-m", "tianji_toolbox.cli", "chat", str(parrot)]
    text = "祝姐姐生日\n".encode("gbk") + "祝大舅发财\n".encode() + b"\xff\xfe\x80\n\x1b[A\nexit\n"
    done = subprocess.run(command, input=text, capture_output=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count(ANSWER) == 4


@pytest.mark.slow
def test_an_answer_cannot_steer_the_terminal(tmp_path):
    model = parrots.teach(tmp_path / "model", ("\x1b[2J\x1b]0;x\x07", "平安"))
    sink = io.StringIO()
    repl(model, source=io.StringIO("祝姐姐生日\n"), sink=sink)
    assert "[2J" in sink.getvalue() and "平安" in sink.getvalue()
    assert not {"\x1b", "\x07"} & set(sink.getvalue())
