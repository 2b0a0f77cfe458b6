"""What a submitted notebook is locked into, by the means that Linux gives every user.

``unshare`` (util-linux) starts the process in namespaces of its own: no network, no other
processes to see or to signal. Inside, before any code of a student runs, ``enter`` closes the rest:
all of the file system is mounted read-only but one folder, then every privilege is dropped,
Landlock (landlock(7)) leaves only the course, Python and that folder to be read, and a seccomp
filter refuses sockets, so that no service of this machine can be reached by its file either.
What could not be closed raises CourseError: nothing runs half protected.
"""

import ctypes
import errno
import os
import platform
import resource
import socket
import struct
import sys
from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import landlock

# one more namespace each for privileges, mounts, network, shared memory and process numbers
UNSHARE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
]

MAX_FILE = 100_000_000  # bytes
MAX_OPEN_FILES = 512

HOW = (
    "需要 Linux 5.13 以上，并且允许普通用户使用命名空间"
    "（Ubuntu 24.04：sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0；"
    "Docker：--security-opt seccomp=unconfined）"
)

# system calls by their numbers (asm-generic/unistd.h)
_MOUNT_SETATTR = 442
_IO_URING_SETUP = 425
_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # audit architecture, socket(2)

_libc = ctypes.CDLL(None, use_errno=True)


def enter(folder: Path, memory: int, seconds: int) -> None:
    """Lock this process, which ``UNSHARE`` started, and all it will start, into ``folder``.

    memory: bytes of data, seconds: of computing, that one process may use. Raises CourseError if
    that cannot be done.
    """
    try:
        if os.getpid() != 1:  # what follows would change the mounts of the whole machine
            raise OSError(errno.EPERM, "没有自己的命名空间")
        _limit(memory, seconds)
        _read_only_but(folder)
        _drop_privileges()
        _restrict_reading(folder)
        _refuse_sockets()
        _prove(folder)
    except OSError as error:
        raise CourseError(f"这台机器关不住要运行的代码（{error}）：{HOW}。") from error


def _limit(memory: int, seconds: int) -> None:
    for what, most in {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_CPU: seconds,  # should nobody be left to watch it
        resource.RLIMIT_FSIZE: MAX_FILE,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(what, (most, most))
    # where memory runs out all the same, the kernel ends this process first
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _read_only_but(folder: Path) -> None:
    bind, recursive, read_only = 4096, 0x8000, 1
    path = os.fsencode(folder)
    _check(_libc.mount(path, path, None, ctypes.c_ulong(bind), None))
    for where, flags, attributes in ((b"/", recursive, (read_only, 0)), (path, 0, (0, read_only))):
        packed = struct.pack("QQQQ", *attributes, 0, 0)  # set, clear, propagation, user namespace
        landlock.system_call(_MOUNT_SETATTR, -100, where, flags, packed, len(packed))  # -100: AT_FDCWD


def _drop_privileges() -> None:
    drop_from_bounding_set = 24
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        landlock.prctl(drop_from_bounding_set, capability)
    _check(_libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)))


def _restrict_reading(folder: Path) -> None:
    readable = {path for path in _readable() if path.exists()}
    allowed = {
        path: landlock.EXECUTE | landlock.READ_FILE | (landlock.READ_FOLDER if path.is_dir() else 0)
        for path in readable
    }
    allowed |= {Path("/dev/null"): landlock.READ_FILE | landlock.WRITE_FILE, folder: landlock.EVERYTHING}
    landlock.restrict(landlock.EVERYTHING, allowed)


def _readable() -> list[Path]:
    """Return what Python and the course are made of; the solutions and ``.env`` are not among it."""
    ours = [paths.HELPERS, paths.TOOLBOX, paths.DATA, paths.CONFIGS]
    system = [
        "/dev/urandom",
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/sys/devices/system/cpu",
    ]
    python = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]} - {
        Path("/")
    }
    return [*ours, *python, *map(Path, system)]


def _refuse_sockets() -> None:
    machine = platform.machine()
    if machine not in _SOCKET:
        raise OSError(errno.ENOSYS, f"{machine}")
    architecture, socket_call = _SOCKET[machine]
    load, equal, at_least, finish = 0x20, 0x15, 0x35, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EACCES
    program = (
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, architecture),
        (finish, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 3, 0, 0x40000000),  # the other numbers of x86
        (equal, 2, 0, socket_call),
        (equal, 1, 0, _IO_URING_SETUP),  # it could open sockets too
        (finish, 0, 0, allow),
        (finish, 0, 0, refuse),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    set_seccomp, mode_filter = 22, 2
    landlock.prctl(set_seccomp, mode_filter, ctypes.addressof(filter_))


def _prove(folder: Path) -> None:
    """Raise OSError if anything that must be closed is open."""
    doors = {
        "写": folder.parent.touch,
        "读": lambda: list(Path("/").iterdir()),
        "联网": lambda: socket.socket().close(),
    }
    for name, door in doors.items():
        try:
            door()
        except OSError:
            continue
        raise OSError(errno.EPERM, f"还能{name}")


def _check(returned: int) -> None:
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
