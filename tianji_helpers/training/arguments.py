"""What a part of a config takes: the arguments of its ``type``, and of what gets its ``**kwargs``.

A name that nobody takes is a typo, which would do nothing, or stop a training at its first checkpoint.
Signatures tell the names; a class with ``**kwargs`` is asked together with its bases, as far as its source
says that it hands them up, reads them by name, or leaves them unused. Of any other use nothing can be known
(``from_pretrained`` takes what the settings of the model have).
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

# what is handed on to something else than a base
_HANDED_ON = {
    "mmengine.hooks.checkpoint_hook.CheckpointHook": "mmengine.runner.Runner.save_checkpoint",
    "tianji_helpers.seeing.rows.SeenRows": "xtuner.dataset.process_hf_dataset",
}
_GIVEN = {"filename", "meta"}  # what the hook itself says to save_checkpoint


def named(made_by: Any) -> Any:
    """Return what a ``type`` stands for: what it is, or what mmengine finds by this name; None if nothing."""
    import mmengine.runner  # noqa: F401 -- it registers torch's optimizers by their short names
    from mmengine import registry

    if callable(made_by):
        return made_by
    for known in vars(registry).values():
        if isinstance(known, registry.Registry):
            with suppress(Exception):  # to look for a name means to import what may not be there
                if callable(found := known.get(made_by)):
                    return found
    return None


def taken(holder: Mapping[str, Any]) -> dict[str, inspect.Parameter | None] | None:
    """Return what the ``type`` of a part takes, by name; None if that cannot be known."""
    from mmengine.utils import get_object_from_string

    made_by = holder.get("type")
    try:
        made_by = get_object_from_string(made_by) if isinstance(made_by, str) else made_by
        found, rest = _own(made_by)
        if not rest:
            return found
        if to := _HANDED_ON.get(f"{made_by.__module__}.{made_by.__qualname__}"):
            theirs = _own(get_object_from_string(to))[0]
            return {name: theirs[name] for name in theirs.keys() - _GIVEN} | found
        return _with_bases(made_by)
    except (AttributeError, TypeError, ValueError, OSError, ImportError, SyntaxError):
        return None


def _own(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter | None], str]:
    """Return the named arguments of a function, and the name of its ``**kwargs`` if it makes use of them."""
    ours = inspect.signature(function).parameters
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    named = {name: one for name, one in ours.items() if one.kind in kinds and name != "self"}
    rest = next((name for name, one in ours.items() if one.kind is one.VAR_KEYWORD), "")
    return named, "" if rest == "_" else rest  # "_" takes what it does not use


def _with_bases(made_by: Any) -> dict[str, inspect.Parameter | None] | None:
    bases = made_by.__mro__[:-1] if isinstance(made_by, type) else ()  # the last is object
    found: dict[str, inspect.Parameter | None] = {}
    for function in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [made_by]:
        own, rest = _own(function)
        found = own | found
        if not rest:
            break
        read, goes_up = _uses(function, rest)
        if read is None:
            return None
        found = dict.fromkeys(read) | found
        if not goes_up:
            break
    return found


def _uses(function: Callable[..., Any], rest: str) -> tuple[set[str] | None, bool]:
    """Return the names that a function reads of its ``**rest``, and whether a base gets the rest of it.

    The first is None if it does anything else with it.
    """
    read, known, goes_up = set(), set(), False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        match node:
            case (
                ast.Call(func=ast.Attribute(value=place, attr="pop" | "get"), args=[ast.Constant(name), *_])
                | ast.Subscript(value=place, slice=ast.Constant(name))
                | ast.Compare(left=ast.Constant(name), comparators=[place])
            ):
                known.add(place)
                read |= {name} if ast.unparse(place) == rest else set()
            case ast.If(test=place) | ast.Call(func=ast.Attribute(value=place, attr="keys")):
                known.add(place)  # it warns of what is left
            case ast.Call() if ast.unparse(node.func) == "super().__init__":
                given = [word.value for word in node.keywords if word.arg is None]
                known.update(given)
                goes_up |= rest in map(ast.unparse, given)
    used = {node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == rest}
    return (read if used <= known else None), goes_up
