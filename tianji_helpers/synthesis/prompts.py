"""From a cell of the matrix to the prompt that a teacher model gets.

A prompt names recipient, scene, style, one example sentence (few-shot; drawn at random, so that the
teacher imitates a tone and not one sentence) and one random requirement. Everything is drawn from
``(seed, round, recipient, scene, style)``: a prompt does not depend on which others are sent, so an
interrupted run can go on. The temperature is a parameter of the request and has no place in here.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tianji_helpers.wishes import Matrix

SYSTEM = "你熟悉中国人的称呼、节日和场合的分寸，擅长替人写得体的祝福。只写祝福本身，不说别的话。"
_KINDS = {"elder": "长辈", "superior": "师长或上级", "peer": "平辈", "younger": "弟弟妹妹"}


@dataclass(frozen=True)
class Prompt:
    """One request to a teacher, not yet tied to a provider.

    input: what a person would type, the training input. text: the user message (``src_input``).
    example, requirement: what was drawn; an empty string is nothing. seed: for the request.
    answer_chars: about how long the wish will be.
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

    @property
    def where(self) -> str:
        """The prompt's name in a message."""
        return f"{self.recipient} × {self.scene} × {self.style}，第 {self.round} 轮"

    @property
    def messages(self) -> list[dict]:
        """The chat messages, as every provider takes them."""
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text}]


def build(matrix: Matrix, recipient: str, scene: str, style: str, round: int = 1, seed: int = 42) -> Prompt:
    """Build one prompt.

    round, seed: another round or seed draws another example and requirement, and asks with another
    request seed. Raises CourseError for an unknown name.
    """
    request = matrix.request(recipient, scene, style)
    who, how = matrix.recipients[recipient], matrix.styles[style]
    rng = random.Random(f"{seed}/{round}/{recipient}/{scene}/{style}")
    example = rng.choice(how.examples) if how.examples else ""
    requirement = rng.choice(matrix.requirements)
    lines = [
        f"请写{how.form}祝福。",
        f"对象：{recipient}（{_KINDS[who.kind]}，用“{who.honorific}”称呼）",
        f"场景：{scene}",
        f"风格：{style}。{how.template}",
        f"参考句（只学语气，不要照抄）：{example}" if example else "",
        f"长度：{how.min_chars} 到 {how.max_chars} 个字。",
        f"额外要求：{requirement}" if requirement else "",
        "只写祝福本身：不要标题、引号、解释和换行。",
    ]
    return Prompt(
        recipient=recipient,
        scene=scene,
        style=style,
        round=round,
        seed=rng.getrandbits(31),
        example=example,
        requirement=requirement,
        input=request,
        text="\n".join(line for line in lines if line),
        answer_chars=(how.min_chars + how.max_chars) // 2,
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
