"""Talk to a model: one conversation with its history, as a notebook widget or from any other face.

``Chat`` streams the answer and remembers it. Answers end at the model's own end token, and no template token
is shown. Several adapters may sit on one base model; changing from one to another loads nothing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tianji_helpers import plots, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference

if TYPE_CHECKING:
    import ipywidgets

MAX_REQUEST = 2_000  # characters; what one types is far shorter, a pasted book would fill the memory


class Chat:
    """A conversation with a loaded model.

    model, tokenizer: as ``inference.load`` returns them. system: the system prompt of every turn.
    style: a style of the course, which is added to every request. temperature: 0 takes the likeliest
    token each time. max_new_tokens: limit of one answer. image, encode: a picture that the conversation is
    about, and what puts it into a prompt (``seeing.eyes``). What no longer fits into the model's window is
    left out of the prompt, the oldest turns first.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        system: str = "",
        style: str = wishes.DEFAULT_STYLE,
        temperature: float = 0.0,
        max_new_tokens: int = 200,
        image: Any = None,
        encode: inference.Encode | None = None,
    ):
        if temperature < 0:
            raise CourseError(f"temperature 是 {temperature}，不能小于 0；0 表示每次都选最可能的词。")
        if max_new_tokens < 1:
            raise CourseError(f"max_new_tokens 是 {max_new_tokens}，至少要 1。")
        if style not in (known := wishes.load().styles):
            raise CourseError(f"没有叫 {style} 的风格。可选：{'、'.join(known)}。")
        self.model, self.tokenizer, self.system, self.style = model, tokenizer, system, style
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.image, self.encode = image, encode
        self.history: list[tuple[str, str]] = []

    def reset(self) -> None:
        """Forget what was said."""
        self.history.clear()

    def use(self, adapter: str, system: str = "") -> None:
        """Let another adapter answer (``""``: the base model), with its system prompt, from the start."""
        inference.switch(self.model, adapter)
        self.system = system
        self.reset()

    def say(self, request: str) -> Iterator[str]:
        """Answer ``request`` and yield the text in pieces; a finished answer joins the history.

        Raises CourseError for an empty or too long request, or one that holds template tokens,
        before anything is generated.
        """
        request = request.strip()
        if not request:
            raise CourseError("请先输入一句话。")
        if len(request) > MAX_REQUEST:
            raise CourseError(f"这句话有 {len(request)} 个字，最多 {MAX_REQUEST} 个。")
        if self.style != wishes.DEFAULT_STYLE:
            request += f",{self.style}风格"
        talk = inference.messages(request, self.system, self.history)
        talk = inference.fit(self.model, self.tokenizer, talk, self.max_new_tokens)
        settings: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }
        if self.image is not None:
            next(message for message in talk if message["role"] == "user")["image"] = self.image
            settings["encode"] = self.encode
        said = ""
        for piece in inference.stream(self.model, self.tokenizer, talk, **settings):
            said += piece
            yield piece
        self.history.append((request, said.strip()))


def _talk(chat: Chat) -> plots.Talk:
    return plots.Talk([(asked, {"模型": said}) for asked, said in chat.history])


def widget(chat: Chat) -> "ipywidgets.VBox":
    """Return an ipywidgets chat for a notebook: a line to type in, a button, the conversation.

    What was said before stands in it. Where widgets cannot be drawn (a stored page), that is shown instead.
    """
    import ipywidgets

    class ChatBox(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
        def __repr__(self) -> str:
            return f"{_talk(chat)}\n（在 JupyterLab 里运行这一格，就能接着聊。）"

        def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
            page = f"{_talk(chat)._repr_html_()}<small>在 JupyterLab 里运行这一格，就能接着聊。</small>"
            return {**super()._repr_mimebundle_(**options), "text/html": page}

    line = ipywidgets.Text(placeholder="例如：祝姐姐生日快乐,小红书风格", layout={"width": "60%"})
    send = ipywidgets.Button(description="发送", button_style="primary")
    forget = ipywidgets.Button(description="清空")
    shown = ipywidgets.Textarea(disabled=True, layout={"width": "90%", "height": "12em"})
    shown.value = "".join(f"你：{asked}\n模型：{said}\n" for asked, said in chat.history)

    def on_send(_: "ipywidgets.Button") -> None:
        request, line.value, send.disabled = line.value, "", True
        before = shown.value
        try:
            shown.value = f"{before}你：{request}\n模型："
            for piece in chat.say(request):
                shown.value += piece
            shown.value += "\n"
        except CourseError as error:
            shown.value = f"{before}（{error}）\n"
        finally:
            send.disabled = False

    def on_forget(_: "ipywidgets.Button") -> None:
        chat.reset()
        shown.value = ""

    send.on_click(on_send)
    forget.on_click(on_forget)
    return ChatBox([ipywidgets.HBox([line, send, forget]), shown])
