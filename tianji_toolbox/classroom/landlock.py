"""A process that may write, or read, only where it was told to (Landlock, in Linux since 5.13; no root).

The rule holds for the process that asks and for all that it starts, and cannot be taken back. Where
the kernel has no Landlock, ``restrict_writes`` says so and changes nothing.
"""

import ctypes
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

# numbers and bits of <linux/landlock.h>; the system calls have the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38  # prctl
EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER = 1, 2, 4, 8
EVERYTHING = (1 << 13) - 1  # all rights of the first version
_WRITES = EVERYTHING & ~(EXECUTE | READ_FILE | READ_FOLDER)  # write files; remove and make anything
_LATER = {2: 1 << 13, 3: 1 << 14}  # since that version: rename between folders, truncate

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Return the version of Landlock that the kernel speaks; 0 where it has none."""
    try:
        return max(0, system_call(_CREATE_RULESET, None, 0, _GET_VERSION))
    except OSError:
        return 0


def restrict_writes(folders: Iterable[str | Path]) -> bool:
    """Let this process, and all that it starts from now on, write only below the folders.

    To be called before the process has other threads (those would stay free). Returns whether the
    kernel could; raises OSError for a folder that is not there.
    """
    spoken = version()
    if not spoken:
        return False
    rights = _WRITES | sum(bit for since, bit in _LATER.items() if spoken >= since)
    restrict(rights, dict.fromkeys(folders, rights))
    return True


def restrict(handled: int, allowed: Mapping[str | Path, int]) -> None:
    """Take the handled rights from this process everywhere but below the allowed paths.

    allowed: the rights that stay, by folder or file. Raises OSError for a path that is not there, and
    where the kernel has no Landlock.
    """
    ruleset = _Ruleset(handled)
    rules = system_call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        for path, rights in allowed.items():
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                beneath = _PathBeneath(rights, place)
                system_call(_ADD_RULE, rules, _RULE_PATH_BENEATH, ctypes.byref(beneath), 0)
            finally:
                os.close(place)
        prctl(_NO_NEW_PRIVS, 1)
        system_call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def prctl(option: int, *values: int) -> None:
    """Set an attribute of this process (prctl(2)). Raises OSError where the kernel refuses."""
    filled = (option, *values, 0, 0, 0, 0)[:5]
    if _libc.prctl(*(ctypes.c_ulong(number) for number in filled)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def system_call(number: int, *arguments) -> int:
    """Make a system call that the C library has no function for. Raises OSError where it fails."""
    words = (ctypes.c_long(item) if isinstance(item, int) else item for item in (number, *arguments))
    result = _libc.syscall(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
