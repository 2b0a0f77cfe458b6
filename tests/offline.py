"""Run a command where there is no network: ``python tests/offline.py COMMAND [ARGUMENT ...]``.

The command gets an empty network namespace of its own (``unshare`` of util-linux, no root needed),
in which only the loopback interface is up; before it starts, that is proved. Where the kernel
forbids namespaces, the command runs all the same, but Python processes under it get a guard that
refuses every connection which is not loopback; standard error says so.
"""

import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

OUTSIDE = ("192.0.2.1", 443)  # TEST-NET-1: nobody has this address (RFC 5737)

GUARD = """
import ipaddress, socket

def _guard(method):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host != "localhost" and not ipaddress.ip_address(host.split("%")[0]).is_loopback:
                raise OSError(101, f"tests/offline.py: the network is off limits ({host})")
        return method(self, address)
    return connect

def _lookup(host, *args, _lookup=socket.getaddrinfo, **kwargs):
    if host not in (None, "", "localhost", b"localhost"):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise socket.gaierror(-3, f"tests/offline.py: the network is off limits ({host})") from None
    return _lookup(host, *args, **kwargs)

socket.socket.connect = _guard(socket.socket.connect)
socket.socket.connect_ex = _guard(socket.socket.connect_ex)
socket.getaddrinfo = _lookup
"""


def raise_loopback() -> None:
    """Bring ``lo`` up in this namespace, as ``ip link set lo up`` would (netdevice(7))."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, get_flags, request), 16)
        fcntl.ioctl(control, set_flags, struct.pack("16sh22x", b"lo", flags | up))


def prove_offline() -> None:
    """Exit unless loopback works and an address outside cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    try:
        socket.create_connection(OUTSIDE, timeout=5).close()
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            return
    sys.exit("offline.py: the network is still there")


def main(command: list[str]) -> None:
    """Replace this process by ``command``, without a network."""
    if not command:
        sys.exit(__doc__)
    if command[0] == "--inside":
        raise_loopback()
        prove_offline()
        os.execvp(command[1], command[1:])
    unshare = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode == 0
    except FileNotFoundError:
        allowed = False
    if allowed:
        os.execvp(unshare[0], [*unshare, sys.executable, __file__, "--inside", *command])
    print(
        "offline.py: WARNING: this kernel allows no network namespace; instead, Python's own "
        "connections are refused unless they stay on this machine.",
        file=sys.stderr,
        flush=True,
    )
    folder = Path(__file__).resolve().parent.parent / "build" / "offline"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    os.execvpe(command[0], command, os.environ | {"PYTHONPATH": path})


if __name__ == "__main__":
    main(sys.argv[1:])
