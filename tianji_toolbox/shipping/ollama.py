"""Say a model's chat template in Ollama's language: the ``Modelfile``.

Hugging Face writes chat templates in Jinja, Ollama in Go's ``text/template``. Rather than translate one
language into the other, we let the tokenizer write a chat with marked contents and read off what it
puts before and after each role's words. A template that does more than that (it reorders, trims, or
adds words that depend on the place) cannot be said this way; that is noticed, because the chats that
are composed from the parts are compared with what the tokenizer writes.
"""

from dataclasses import dataclass
from itertools import pairwise

from tianji_helpers.errors import CourseError
from tianji_helpers.training import chat_templates

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ChatFormat:
    """What stands around the words of a chat.

    around: (before, after) by role. default_system: what is written first when no system message is
    given. opening: what invites the answer. The begin-of-text token is in none of them: llama.cpp
    puts it there.
    """

    around: dict[str, tuple[str, str]]
    default_system: str
    opening: str

    def render(self, chat: list[dict]) -> str:
        """Return the prompt of a chat, without the begin-of-text token."""
        text = "" if chat[0]["role"] == "system" else self.default_system
        for message in chat:
            before, after = self.around[message["role"]]
            text += before + message["content"] + after
        return text + self.opening

    def template(self) -> str:
        """Return the chat format in Go's template language, with Ollama's variables."""
        lines = [f"{{{{ if not .System }}}}{self.default_system}{{{{ end }}}}"] if self.default_system else []
        lines.append("{{ range .Messages }}")
        for role, (before, after) in self.around.items():
            lines.append(f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}')
        lines.append("{{ end }}" + self.opening)
        return "".join(lines)


def read_format(tokenizer) -> ChatFormat:
    """Return the chat format of a tokenizer.

    Raises CourseError if it has no chat template, or one that ``ChatFormat`` cannot say.
    """
    if not tokenizer.chat_template:
        raise CourseError("这个模型的分词器没有对话模板（chat_template），写不出 Ollama 的 Modelfile。")
    words = {role: f"~{role}~" for role in ROLES}
    chat = [{"role": role, "content": words[role]} for role in ROLES]
    full, opened = (_render(tokenizer, chat, opening) for opening in (False, True))
    try:
        beginning, *_ = full.split(words["system"])
        without_system = _render(tokenizer, chat[1:], False)
        # the text between two words is shared out by a second round of the same role
        again = _render(tokenizer, [*chat, chat[1]], False)
        before_user = again[len(full) : again.rindex(words["user"])]
        after_user = again[again.rindex(words["user"]) + len(words["user"]) :]
        middle = {
            (left, right): full.split(words[left])[1].split(words[right])[0]
            for left, right in pairwise(ROLES)
        }
        around = {
            "system": (beginning, middle["system", "user"].removesuffix(before_user)),
            "user": (before_user, after_user),
            "assistant": (
                middle["user", "assistant"].removeprefix(after_user),
                full.split(words["assistant"])[1],
            ),
        }
        default_system = without_system[: without_system.index(words["user"])].removesuffix(before_user)
    except (IndexError, ValueError) as error:
        raise _too_clever() from error
    result = ChatFormat(around, default_system, opened.removeprefix(full))
    for sample in (chat[:2], chat[1:2], [*chat, chat[1]], [*chat[1:], chat[1]]):
        if result.render(sample) != _render(tokenizer, sample, True):
            raise _too_clever()
    return result


def _render(tokenizer, chat: list[dict], opening: bool) -> str:
    (text,) = chat_templates.render(tokenizer, [chat], opening=opening)
    return text.removeprefix(tokenizer.bos_token or "")


def _too_clever() -> CourseError:
    return CourseError(
        "这个模型的对话模板不只是在每句话前后加标记，没法自动写成 Ollama 的 TEMPLATE。"
        "请用 llama.cpp 的服务（它直接读 GGUF 里的模板），或照 Ollama 的文档手写 Modelfile。"
    )


def modelfile(gguf_name: str, chat_format: ChatFormat, stops: list[str], system: str = "") -> str:
    """Return an Ollama ``Modelfile`` for a GGUF file that lies beside it.

    stops: the texts that end an answer. system: the system prompt of the training. Answers are
    greedy, as in the course; whoever wants variety raises ``temperature``.
    Raises CourseError if a text cannot be quoted.
    """
    template = chat_format.template()
    for text in (template, system, *stops):
        if '"""' in text:
            raise CourseError('对话模板或系统提示里有三个连续的双引号 """，写不进 Modelfile。')
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{template}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines.append("PARAMETER temperature 0")
    if system:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"
