"""The demo without its page: what may be asked, who answers, and whose turn it is.

One process serves every visitor. The model is loaded once and answers one visitor at a time, in the
order in which they asked; each answer takes its own turn, so that four candidates for one visitor
don't keep the next one waiting for all four.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from tianji_helpers import paths, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import pictures
from tianji_helpers.training import inference, inspection, models
from tianji_toolbox import pages
from tianji_toolbox.shipping import quick_chat

MAX_REQUEST = 300  # characters; a wish is asked for in one line
MAX_TOKENS = 400
MAX_TEMPERATURE = 2.0
MAX_CANDIDATES = 4
MAX_WAITING = 20  # visitors; the last of them would wait minutes already
TUNED, BASE = "微调后", "基座模型"


@dataclass(frozen=True)
class Asked:
    """What a visitor asks, checked.

    text: at most ``MAX_REQUEST`` characters. temperature: 0 takes the likeliest token each time.
    top_p: share of the probability that tokens are drawn from. max_new_tokens: limit of the answer. image: as
    ``pictures.open_picture`` returns it, for a model that sees.
    Raises CourseError for what is empty, too long, or out of bounds.
    """

    text: str
    temperature: float = 0.8
    top_p: float = 0.9
    max_new_tokens: int = 100
    image: Any = None

    def __post_init__(self):
        object.__setattr__(self, "text", self.text.strip())
        if not self.text:
            raise CourseError("请先写一句话，例如：祝姐姐生日快乐,小红书风格。")
        if len(self.text) > MAX_REQUEST:
            raise CourseError(f"这句话有 {len(self.text)} 个字，最多 {MAX_REQUEST} 个，请写短一点。")
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise CourseError(f"温度是 {self.temperature}，应当在 0 到 {MAX_TEMPERATURE} 之间。")
        if not 0 < self.top_p <= 1:
            raise CourseError(f"top-p 是 {self.top_p}，应当大于 0，不超过 1。")
        if not 1 <= self.max_new_tokens <= MAX_TOKENS:
            raise CourseError(f"长度是 {self.max_new_tokens} 个词元，应当在 1 到 {MAX_TOKENS} 之间。")


@dataclass(frozen=True)
class AnswerState:
    """How far an answer is. ahead: visitors still before this one. text: what has come so far."""

    ahead: int = 0
    text: str = ""


class WaitingLine:
    """Visitors in the order in which they came; the first one's turn it is."""

    def __init__(self, limit: int = MAX_WAITING):
        self.limit = limit
        self._tickets: deque[object] = deque()
        self._moved = Condition()

    @contextmanager
    def ticket(self) -> Iterator[object]:
        """Stand in line until the block ends. Raises CourseError if too many wait already."""
        ticket = object()
        with self._moved:
            if len(self._tickets) > self.limit:
                raise CourseError(f"现在有 {len(self._tickets) - 1} 位在排队，太多了。请过一会儿再试。")
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._moved:
                self._tickets.remove(ticket)
                self._moved.notify_all()

    def ahead(self, ticket: object, seconds: float = 0.0) -> int:
        """Return how many stand before this ticket, after at most ``seconds`` if it is not its turn."""
        with self._moved:
            if seconds and self._tickets[0] is not ticket:
                self._moved.wait(seconds)
            return self._tickets.index(ticket)


class Studio:
    """The loaded model with everything that can answer in its name.

    model_dir: the model. adapters: LoRA folders by name, which take turns on this model; without any
    of them it is the base model. base_dir: the base model of a merged ``model_dir``, loaded beside it.
    ``voices`` are the names to choose from; ``comparable`` says whether there is a base model to
    compare them with, ``sees`` whether it takes pictures. Raises CourseError if a folder is not what it
    should be.
    """

    def __init__(
        self,
        model_dir: str | Path,
        adapters: Mapping[str, str | Path] | None = None,
        base_dir: str | Path | None = None,
    ):
        self._line = WaitingLine()
        self._adapters = dict(adapters or {})
        check(model_dir, self._adapters, base_dir)
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.sees = inspection.sees(model_dir)
        load = quick_chat.load
        if self.sees:
            from tianji_helpers.seeing import eyes  # it takes seconds

            self._encode, load = eyes.Eyes.of(model_dir, device=device).encode, inference.load
        self._tuned = load(model_dir, self._adapters or None, device=device)
        self._base = self._tuned if self._adapters else None
        if base_dir is not None:
            self._base = quick_chat.load(base_dir, device=device)
        system = _system(model_dir)
        self._systems = {name: _system(folder, system) for name, folder in self._adapters.items()}
        self._systems = self._systems or {TUNED: system}
        self.voices = list(self._systems)
        self.comparable = self._base is not None

    def answer(
        self, voice: str, question: Asked, *, before: bool = False, patience: float = 0.2
    ) -> Iterator[AnswerState]:
        """Wait for the turn, then answer; yield how far it is, the whole text last.

        voice: one of ``voices``. before: let the base model answer instead, shown the same prompt.
        patience: seconds between two looks at the line. Leaving the iterator gives the turn back.
        Raises CourseError as ``inference.stream`` does, or if too many wait already.
        """
        model, tokenizer = self._base if before else self._tuned
        chat = inference.messages(question.text, self._systems[voice])
        sight = {}
        if question.image is not None:
            if before or not self.sees:
                raise CourseError("这个模型看不了图片。请去掉图片，再试一次。")
            chat[-1]["image"], sight["encode"] = question.image, self._encode
        with self._line.ticket() as ticket:
            while ahead := self._line.ahead(ticket, patience):
                yield AnswerState(ahead)
            if self._adapters:
                inference.switch(model, "" if before else voice)
            text = ""
            yield AnswerState()
            with closing(
                inference.stream(
                    model,
                    tokenizer,
                    chat,
                    max_new_tokens=question.max_new_tokens,
                    temperature=question.temperature,
                    top_p=question.top_p,
                    **sight,
                )
            ) as pieces:
                for piece in pieces:
                    text += piece
                    yield AnswerState(text=text)
        yield AnswerState(text=text.strip())


def serve(
    model_dir: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    base_dir: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
) -> None:
    """Serve the demo until Ctrl-C.

    The first three as ``Studio`` takes them. Raises CourseError, before anything starts, if a folder
    is not what it should be or the address cannot be had.
    """
    adapters = {name: paths.resolve(folder) for name, folder in (adapters or {}).items()}
    check(model_dir, adapters, base_dir)
    arguments = {
        "model_dir": paths.resolve(model_dir),
        "adapters": adapters,
        "base_dir": base_dir and paths.resolve(base_dir),
    }
    page = Path(__file__).with_name("web_page.py")
    upload_mb = -(-pictures.LARGEST_FILE // 2**20) if inspection.sees(model_dir) else 1
    pages.serve(page, [json.dumps(arguments, default=str)], host=host, port=port, upload_mb=upload_mb)


def check(
    model_dir: str | Path, adapters: Mapping[str, str | Path], base_dir: str | Path | None = None
) -> None:
    """Look at the folders without loading them; raises CourseError as ``Studio`` does."""
    if adapters and base_dir is not None:
        raise CourseError("有了 --adapter，模型文件夹本身就是基座，前后对比不用再写 --base。")
    model = inspection.inspect_model(model_dir)
    for folder in adapters.values():
        inspection.inspect_adapter(folder, model)
    if base_dir is not None:
        inspection.inspect_model(base_dir)


def _system(folder: str | Path, default: str = wishes.SYSTEM) -> str:
    """Return the system prompt that a model or adapter was trained with, where the course knows it."""
    return models.recorded(folder).get("system", default)
