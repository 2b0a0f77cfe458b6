"""What submitted notebooks and batches are locked into: bubblewrap (bwrap(1)), which needs no root.

A submission sees Python, the course and the folder that was handed in, read-only, and writes in a folder in
memory that ends with it. It has no network, no other processes and no privileges. What belongs to no
namespace, or holds memory that no limit counts, is refused by the kernel, through a filter of libseccomp. A
batch is not distrusted: it only must not write into the folders of others, and leaves no process.
"""

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

HOME, HANDED_IN = "/home/student", "/handed-in"
MAX_TASKS = 256  # processes and threads that there can be before the next look from outside
ROOM = 400_000_000  # bytes for what was handed in and what is written
MAX_FILES = 10_000  # so many may be written

# system calls, and the bits of an argument that make one refused (its position, the bits)
_SHARED_BY_NO_NAME = 0x21  # MAP_SHARED | MAP_ANONYMOUS
_NEW_USER = 0x10000000  # CLONE_NEWUSER
_REFUSED: dict[str, tuple[int, int] | None] = {
    # keyrings belong to no namespace: those of the teacher could be read, and notes be left for the next
    **dict.fromkeys(("add_key", "request_key", "keyctl")),
    # memory that stays though it is mapped by nobody, so nobody's share shows it
    **dict.fromkeys(("memfd_create", "shmget", "semget", "msgget", "mq_open", "vmsplice")),
    "mmap": (3, _SHARED_BY_NO_NAME),
    # a namespace within: there one could mount memory without a limit
    **dict.fromkeys(("unshare", "setns")),
    "clone": (0, _NEW_USER),
    # to the host of a virtual machine there are sockets without a namespace
    **dict.fromkeys(("socket", "io_uring_setup")),
    # parts of the kernel that are large, and that no exercise needs
    **dict.fromkeys(("bpf", "perf_event_open", "userfaultfd")),
}

_DEVICES = ("/dev/null", "/dev/urandom")
# Where the teacher is root, the submission's code owns the devices, whatever was taken from it, and could
# change their mode for the whole machine: it gets them read-only (their mode; one still writes to them), as
# bwrap cannot. A control group counts its processes, as RLIMIT_NPROC does not bind root. The folder that it
# writes in counts its files itself, which bwrap's does not. And what belongs to somebody else alone (mode
# 0600) is copied, to a folder in memory: without privileges root may not read it.
_AS_ROOT = f"""
[ -z "$0" ] || echo $$ > "$0/cgroup.procs" || exit
copy=$1/handed-in home=$1/home handed_in=$2; shift 2
in_memory() {{ mount -t tmpfs -o "nodev,nosuid,mode=755,size={ROOM},nr_inodes=$1" tmpfs "$2"; }}
in_memory {MAX_FILES + 2} "$home" || exit
if [ -n "$handed_in" ]; then
    in_memory {2 * MAX_FILES} "$copy" || exit
    from=$handed_in; [ ! -d "$from" ] || from=$from/.
    if cp -rP -- "$from" "$copy" 2>/dev/null; then chmod -R u+rX "$copy" || exit
    else umount "$copy" && mount --bind "$handed_in" "$copy" || exit  # in there it fails again, and says so
    fi
fi
for device in {" ".join(_DEVICES)}; do
    mount --bind $device $device && mount -o remount,bind,ro $device || exit
done
exec "$@"
"""

_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_INSTALL = "请运行 sudo apt install bubblewrap libseccomp2（Fedora：sudo dnf install bubblewrap libseccomp）"
_PROFILE = "bwrap-userns-restrict"
_ALLOW = (
    "Ubuntu 24.04 起，AppArmor 要先允许 bwrap 这一个程序，请运行：sudo apt install apparmor-profiles && "
    f"sudo cp /usr/share/apparmor/extra-profiles/{_PROFILE} /etc/apparmor.d/ && "
    f"sudo apparmor_parser -r /etc/apparmor.d/{_PROFILE}"
)
_ELSEWHERE = "容器里往往不允许再建命名空间：请在机器本身上运行"


@cache
def why_not() -> str:
    """Return why this machine cannot lock anything in, and the command that helps; empty if it can."""
    try:
        tried = subprocess.run([*for_batch(()), "true"], capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        return f"没有 bubblewrap（只有 Linux 有）。{_INSTALL}。"
    if not tried.returncode:
        return ""
    restricted = os.geteuid() and _APPARMOR.is_file() and _APPARMOR.read_text().strip() != "0"
    return f"{tried.stderr.strip()}。{_ALLOW if restricted else _ELSEWHERE}。"


def for_batch(writable: Sequence[str | Path]) -> list[str]:
    """Return what to put before a command that may write only below some folders, and leaves no process."""
    binds = [word for folder in map(str, writable) for word in ("--bind", folder, folder)]
    # JPY_PARENT_PID: its parent has another number in there, and a kernel ends itself when its parent is gone
    alone = ["--unshare-pid", "--die-with-parent", "--proc", "/proc", "--setenv", "JPY_PARENT_PID", "1"]
    return ["bwrap", "--ro-bind", "/", "/", *binds, "--dev-bind", "/dev", "/dev", *alone]


@contextmanager
def counted() -> Iterator[str]:
    """Make a control group for at most ``MAX_TASKS``, where one can (root); give its path, or nothing."""
    group = ""
    for top in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):  # version 1 and 2
        with suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix="tianji-", dir=top))
            try:
                (made / "pids.max").write_text(str(MAX_TASKS), encoding="ascii")
            except OSError:
                made.rmdir()
                raise
            group = str(made)
            break
    try:
        yield group
    finally:
        for _ in range(600 if group else 0):  # as long as the last of them is ending
            with suppress(OSError):
                Path(group).rmdir()
                break
            time.sleep(0.05)


def for_student(handed_in: Path | None, calls: int, group: str, own: str) -> list[str]:
    """Return what to put before the command that a submission is locked into.

    handed_in: a notebook, or a folder with one, which appears below ``HANDED_IN``. calls: the file of
    ``filtered_calls``. group: of ``counted``. own: a folder with two empty ones,
    ``handed-in`` and ``home``.
    """
    # where memory runs out all the same, the kernel ends this first; in there /proc is read-only
    command = ["choom", "-n", "1000", "--"]
    if os.geteuid() == 0:
        command += ["unshare", "--mount", "sh", "-c", _AS_ROOT, group, own, str(handed_in or "")]
    command += ["bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--new-session"]
    command += ["--cap-drop", "ALL", "--seccomp", str(calls)]
    for path in _readable():
        command += ["--ro-bind-try", path, path]
    if handed_in and os.geteuid() == 0:
        command += ["--ro-bind", f"{own}/handed-in", HANDED_IN]
    elif handed_in:
        inside = HANDED_IN if handed_in.is_dir() else f"{HANDED_IN}/{handed_in.name}"
        command += ["--ro-bind", str(handed_in), inside]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    command += ["--proc", "/proc"]
    for names_of_keys in filter(os.path.exists, ("/proc/keys", "/proc/key-users")):
        command += ["--ro-bind", "/dev/null", names_of_keys]
    # read-only, for where the teacher is root, /proc/sys belongs to who runs the submission
    command += ["--remount-ro", "/proc"]
    command += ["--bind", f"{own}/home", HOME] if os.geteuid() == 0 else [*_sized(), "--tmpfs", HOME]
    return [*command, "--remount-ro", "/", "--chdir", str(paths.ROOT)]


@cache
def _sized() -> list[str]:
    """Return the option for the size of a folder in memory; bwrap has it since 0.7."""
    known = subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout
    return ["--size", str(ROOM)] if "--size" in known else []


def _readable() -> list[str]:
    """Return what Python and the course are made of; the solutions and ``.env`` are not among it."""
    ours = [paths.HELPERS, paths.TOOLBOX, paths.DATA, paths.CONFIGS]
    system = ["/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu"]
    python = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])} - {"/"}
    return ["/usr", *sorted(python), *map(str, ours), *system]


class _Condition(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("position", ctypes.c_uint),
        ("how", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


@contextmanager
def filtered_calls() -> Iterator[int]:
    """Open a file with the filter of system calls for bwrap. Raises CourseError without libseccomp."""
    allow, refuse, masked_equal = 0x7FFF0000, 0x00050000, 7
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise CourseError(f"没有 libseccomp（{error}）。{_INSTALL}。") from None
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(allow))
    # clone3 hides its flags in memory; told that there is none, the C library takes clone
    answers = dict.fromkeys(_REFUSED, errno.EPERM) | {"clone3": errno.ENOSYS}
    for name, answer in answers.items():
        number, bits = library.seccomp_syscall_resolve_name(name.encode()), _REFUSED.get(name)
        condition = _Condition(bits[0], masked_equal, bits[1], bits[1]) if bits else None
        if library.seccomp_rule_add_array(
            rules, refuse | answer, number, int(bool(bits)), condition and ctypes.byref(condition)
        ):
            raise CourseError(f"libseccomp 不认识系统调用 {name}：请更新 libseccomp。")
    with tempfile.TemporaryFile() as file:
        library.seccomp_export_bpf(rules, file.fileno())
        library.seccomp_release(rules)
        file.seek(0)
        yield file.fileno()
