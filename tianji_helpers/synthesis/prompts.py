"""From a cell of the matrix, or a request in somebody's own words, to the prompt that a teacher gets.

A prompt names style, length, one example sentence (drawn at random, so that the teacher imitates a tone and
not one sentence), one random requirement, scene and recipient, and what else was asked for. What prompts
share stands first, so that a server works it out once for all. Everything is drawn from ``(seed, round,
recipient, scene, style)``: no prompt depends on which others are sent, so an interrupted run can go on. The
temperature is a parameter of the request and has no place in here.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tianji_helpers.errors import CourseError
from tianji_helpers.request import Request
from tianji_helpers.wishes import Matrix

SYSTEM = "你熟悉中国人的称呼、节日和场合的分寸，擅长替人写得体的祝福。只写祝福本身，不说别的话。"
_KINDS = {"elder": "长辈", "superior": "师长或上级", "peer": "平辈", "younger": "弟弟妹妹"}


@dataclass(frozen=True)
class Prompt:
    """One request to a teacher, not yet tied to a provider.

    input: what a person would type, the training input. text: the user message (``src_input``). example,
    requirement: what was drawn, perhaps nothing. answer_chars: about how long the wish will be.
    """

    recipient: str
    scene: str
    style: str
    round: int
    seed: int
    example: str
    requirement: str
    input: str
    text: str
    answer_chars: int
    schema = None  # a wish is no JSON

    @property
    def where(self) -> str:
        """The prompt's name in a message."""
        return f"{self.recipient} × {self.scene} × {self.style}，第 {self.round} 轮"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat messages, as every provider takes them."""
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text}]


def build(matrix: Matrix, recipient: str, scene: str, style: str, round: int = 1, seed: int = 42) -> Prompt:
    """Build one prompt; another round or seed draws another example, requirement and request seed.

    Raises CourseError for an unknown name.
    """
    request = Request(matrix.request(recipient, scene, style), recipient, scene, style, matrix=matrix)
    return _build(request, f"{seed}/{round}/{recipient}/{scene}/{style}", round, matrix.requirements)


def build_asked(matrix: Matrix, text: str, round: int = 1, seed: int = 42) -> Prompt:
    """Build the prompt of a request in somebody's own words, which may carry details and a length.

    Its own words make it differ from others, so no requirement is drawn.
    Raises CourseError if it names no recipient or no scene, or a style that the matrix has not.
    """
    request = matrix.read(text)
    missing = [what for what, name in zip(("对象", "场景"), request.pair, strict=True) if not name]
    if missing:
        raise CourseError(
            f"请求“{text[:60]}”里看不出{'和'.join(missing)}。写法如：祝姐姐生日快乐,小红书风格。"
        )
    if request.how is None:
        raise CourseError(
            f"请求“{text[:60]}”里的风格“{request.style}”不认识。可用的有：{'、'.join(matrix.styles)}。"
        )
    return _build(request, f"{seed}/{round}/{text}", round, ("",))


def _build(request: Request, draw: str, round: int, requirements: Sequence[str]) -> Prompt:
    who, how = request.who, request.how
    assert how  # a style that the matrix has
    rng = random.Random(draw)
    example = rng.choice(how.examples) if how.examples else ""
    requirement = rng.choice(requirements)
    most = request.max_chars or how.max_chars
    least = how.min_chars if how.min_chars < most else 1
    lines = [
        f"请写{how.form}祝福。只写祝福本身：不要标题、引号、解释和换行。",
        f"风格：{how.name}。{how.template}",
        f"长度：{least} 到 {most} 个字。",
        f"参考句（只学语气，不要照抄）：{example}" if example else "",
        f"额外要求：{requirement}" if requirement else "",
        f"场景：{request.scene}",
        f"对象：{request.recipient}" + (f"（{_KINDS[who.kind]}，用“{who.honorific}”称呼）" if who else ""),
        f"当面叫：{request.address}" if request.address else "",
        f"要写进去的事：{request.details}" if request.details else "",
    ]
    return Prompt(
        recipient=request.recipient,
        scene=request.scene,
        style=how.name,
        round=round,
        seed=rng.getrandbits(31),
        example=example,
        requirement=requirement,
        input=request.text,
        text="\n".join(line for line in lines if line),
        answer_chars=(least + most) // 2,
    )


def build_round(
    matrix: Matrix, style: str, round: int = 1, seed: int = 42, limit: int | None = None
) -> Iterator[Prompt]:
    """Yield the prompts of one round of one style, one for every suitable pair.

    limit: at most so many, a seeded sample over the whole matrix; a larger limit contains a smaller
    one's prompts. None or 0 is all.
    """
    pairs = matrix.pairs()
    if limit:
        shuffled = random.Random(f"{seed}/limit").sample(pairs, len(pairs))
        chosen = set(shuffled[:limit])
        pairs = [pair for pair in pairs if pair in chosen]
    for recipient, scene in pairs:
        yield build(matrix, recipient, scene, style, round, seed)
