"""Plain data on its way between a test and a student's function: JSON that keeps Python's kinds apart.

A test compares what a function returns with ``(1, 2)`` or ``{1: "a"}``; JSON alone would make lists and
texts of them.
"""

from typing import Any

_ROWS = {"tuple": tuple, "set": set, "frozenset": frozenset}


def pack(value: Any) -> Any:
    """Return a value as JSON knows it; arrays and tensors become nested lists. Raises TypeError for others.

    >>> pack([(1, 2), {1: "a"}])
    [{'tuple': [1, 2]}, {'dict': [[1, 'a']]}]
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    for name, kind in _ROWS.items():
        if isinstance(value, kind):
            return {name: [pack(item) for item in value]}
    if hasattr(value, "tolist"):
        return pack(value.tolist())
    raise TypeError(type(value).__name__)


def unpack(packed: Any) -> Any:
    """Return what was packed. Raises an error of Python for what never was.

    >>> unpack(pack([(1, 2), {1: "a"}]))
    [(1, 2), {1: 'a'}]
    """
    if isinstance(packed, list):
        return [unpack(item) for item in packed]
    if not isinstance(packed, dict):
        return packed
    ((name, items),) = packed.items()
    if name == "dict":
        return {unpack(key): unpack(item) for key, item in items}
    return _ROWS[name](unpack(items))
