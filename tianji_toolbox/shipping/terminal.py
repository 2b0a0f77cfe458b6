"""A chat in a terminal, for a person at the keyboard or a program on a pipe; see ``tianji_helpers.chat``."""

import sys
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tianji_helpers import wishes
from tianji_helpers.chat import Chat
from tianji_helpers.errors import CourseError, Terminated
from tianji_helpers.training import inference, models
from tianji_toolbox.shipping import quick_chat

RESET, EXIT, USE, HELP = "RESET", "EXIT", "USE", "HELP"
_WORDS = {"reset": RESET, "exit": EXIT, "quit": EXIT, "help": HELP}  # of themselves, in any case
# what a model says must not steer the terminal
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)]) | {ord("\n"): "\n", ord("\t"): "\t"}


def repl(
    model_dir: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    system: str | None = None,
    *,
    style: str = wishes.DEFAULT_STYLE,
    temperature: float = 0.0,
    max_new_tokens: int = 200,
    device: str = "cpu",
    image: str | Path | None = None,
    source: TextIO | None = None,
    sink: TextIO | None = None,
) -> None:
    """Chat in the terminal until ``exit``, ``quit`` or the end of the input; ``reset`` forgets the history.

    adapters: PEFT folders to put on top of the model, by name; the first answers until ``/use name``.
    image: a picture that the chat is about, for a model that sees (lesson 7).
    system: the system prompt; None takes the one that the model or the adapter was trained with,
    where the course has recorded it. source, sink: text streams instead of standard input and output.

    A person gets a line editor: earlier lines by the arrow keys, pasted text of several lines in one.
    A pipe works as well; both may be UTF-8 or GBK. Ctrl-C stops an answer; at the prompt it ends the chat, as
    a termination does at any time.
    """
    adapters = dict(adapters or {})
    person = source is None and sink is None and sys.stdin.isatty() and sys.stdout.isatty()
    sink = sink or sys.stdout
    if hasattr(sink, "reconfigure"):  # a terminal may lack the letters
        sink.reconfigure(errors="replace")

    def tell(text: str, end: str = "\n") -> None:
        print(text.translate(_CONTROL), end=end, file=sink, flush=True)

    def system_of(folder: str | Path) -> str:
        return models.recorded(folder).get("system", "") if system is None else system

    sight: dict[str, Any] = {}
    if image is not None:
        from tianji_helpers.seeing import eyes, pictures  # they take seconds

        picture = pictures.open_picture(image)
        sight = {"image": picture, "encode": eyes.Eyes.of(model_dir, device=device).encode}
    tell("正在加载模型 …")
    if sight:  # llama.cpp has no eyes for it
        loaded = inference.load(model_dir, adapters, device=device)
    else:
        loaded = quick_chat.load(model_dir, adapters, device=device, report=tell)
    chat = Chat(
        *loaded,
        system=system_of(next(iter(adapters.values()), model_dir)),
        style=style,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        **sight,
    )
    commands = "/reset 清空历史，/exit（或 exit、quit）退出，/help 再看一遍说明"
    if adapters:
        commands += (
            f"。适配器：{'、'.join(adapters)}（现在是 {next(iter(adapters))}）；"
            "/use 名字 换一个，只写 /use 用基座模型，历史会清空"
        )
    tell(f"可以聊了。输入一句话后回车；{commands}。")
    for line in _typed() if person else _piped(source, tell):
        request = line.strip()
        command, name = _command(request)
        try:
            if command == EXIT:
                break
            if command == RESET:
                chat.reset()
                tell("（历史已清空）")
            elif command == HELP:
                tell(f"（{commands}。）")
            elif command == USE and adapters:
                chat.use(name, system_of(adapters.get(name, model_dir)))
                tell(f"（现在是{f'适配器 {name}' if name else '基座模型'}，历史已清空）")
            elif request.startswith("/"):
                tell(f"（没有 {request.split()[0]} 这个命令。{commands}。）")
            elif request:
                tell("模型：", end="")
                for piece in chat.say(request):
                    tell(piece, end="")
                tell("")
        except CourseError as error:
            tell(f"（{error}）")
        except Terminated:
            raise
        except KeyboardInterrupt:
            tell("（已停下）")
    tell("再见。")


def _command(request: str) -> tuple[str, str]:
    """Return the command in a line, empty if there is none, and what follows it.

    >>> _command("quit"), _command("/USE 乙"), _command("use it"), _command("／ｅｘｉｔ")
    (('EXIT', ''), ('USE', '乙'), ('', ''), ('EXIT', ''))
    """
    # a Chinese input method writes wide letters and spaces
    word, _, rest = unicodedata.normalize("NFKC", request).partition(" ")
    if word == USE or word.lower() == "/use":
        return USE, rest.strip()
    return ("" if rest else _WORDS.get(word.lower().removeprefix("/"), "")), ""


def _typed() -> Iterator[str]:
    """Yield what a person types, line by line; a pasted text is one, however many it has."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput

    class AsSent(Processor):
        """Show a line that is no UTF-8 as it is read in the end; the editor itself shows ? for its bytes.

        The last half character may wait for the next key: it could be the beginning of a UTF-8 one.
        """

        def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
            seen = transformation_input
            line = seen.document.lines[seen.lineno]
            if not any("\udc80" <= character <= "\udcff" for character in line):
                return Transformation(seen.fragments)
            # how many characters are shown for each beginning of the line
            shown = [len(_decode(_bytes(line[:end]), "gb18030")) for end in range(len(line) + 1)]
            return Transformation(
                [("", _decode(_bytes(line)))],
                source_to_display=lambda place: shown[min(place, len(line))],
                display_to_source=lambda place: bisect_left(shown, min(place, shown[-1])),
            )

    # Ctrl-Z suspends, as in every other program
    session: PromptSession[str] = PromptSession(enable_suspend=True, input_processors=[AsSent()])
    while True:
        try:
            line = session.prompt("你：")
        except EOFError:
            return
        yield _decode(_bytes(line))


def _piped(source: TextIO | None, tell: Callable[..., None]) -> Iterator[str]:
    tell("你：", end="")
    for line in source or map(_decode, sys.stdin.buffer):
        yield line
        tell("你：", end="")


def _bytes(line: str) -> bytes:
    """Return what came from the terminal, of a line in which the editor has kept what is no UTF-8."""
    return line.encode(errors="surrogateescape")


def _decode(line: bytes, first: str = "utf-8") -> str:
    """Return a line as text: UTF-8, else what Chinese terminals and files have otherwise."""
    try:
        return line.decode(first)
    except UnicodeDecodeError:
        return line.decode("gb18030", errors="replace")
