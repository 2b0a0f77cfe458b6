"""What a run costs: before it by estimate, after it by what the server counted.

``data/prices.yaml`` holds the prices with the day on which they were looked up; a student edits it or
hands a ``Price`` to the run. Tokens of a text are estimated as DeepSeek documents them (a Chinese
character about 0.6, any other about 0.3); other models' tokenizers differ by some tens of percent.
"""

import datetime
import math
import re
from pathlib import Path
from typing import Annotated

import msgspec

from tianji_helpers import paths, tables
from tianji_helpers.errors import CourseError

_FREE = ("embedded", "local", "offline")  # providers that send no bill
_CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
_Yuan = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Yuan for a million tokens: ``input``, ``cached`` (input found in the cache), ``output``."""

    input: _Yuan
    cached: _Yuan
    output: _Yuan
    date: datetime.date | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Return yuan.

        >>> Price(input=2, cached=0.5, output=8).cost(1_000_000, 500_000, cached_tokens=400_000)
        5.4
        """
        fresh = prompt_tokens - cached_tokens
        total = fresh * self.input + cached_tokens * self.cached + completion_tokens * self.output
        return total / 1_000_000


def find(provider: str, model: str, file: str | Path | None = None) -> Price | None:
    """Return the price of a model, or None if the table does not know it.

    file: another table; None is ``data/prices.yaml``. Raises CourseError for a bad table.
    """
    if provider in _FREE:
        return Price(0, 0, 0)
    file = paths.DATA / "prices.yaml" if file is None else Path(file)
    try:
        row = (tables.read_yaml(file) or {}).get(provider, {}).get(model)
    except AttributeError as error:
        raise CourseError(f"{file} 应当是“服务商: 模型: 价格”的 YAML 表。") from error
    found: Price | None = row and tables.shaped(row, Price, f"{file} 的 {provider} / {model}")
    return found


def show(cost: float | None) -> str:
    """Return yuan as text.

    >>> show(0.01234), show(None)
    ('0.0123 元', '价格未知')
    """
    return "价格未知" if cost is None else f"{cost:.4f} 元"


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text is.

    >>> estimate_tokens("祝你生日快乐，happy birthday")
    9
    """
    chinese = len(_CHINESE.findall(text))
    return math.ceil(0.6 * chinese + 0.3 * (len(text) - chinese))
