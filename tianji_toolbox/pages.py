"""Web pages of the course: those that Streamlit serves on this machine, and those made from a template.

``tianji review`` and ``tianji web`` are scripts that Streamlit runs; ``serve`` starts it with the
settings that both share: this machine only unless asked, no statistics to anybody, no browser
opened by itself, and a clear word if the port is taken.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
OPTIONS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 1,
    # Streamlit's own defaults, whatever a config beside the script or in the home says
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.base": "light",
    "theme.primaryColor": "#c8372d",
    "theme.backgroundColor": "#fffaf4",
    "theme.secondaryBackgroundColor": "#faeee4",
    "theme.textColor": "#33261f",
}
# of what we write: no script, and nothing from elsewhere
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'\">"
)


def serve(
    script: str | Path,
    arguments: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8501,
    *,
    upload_mb: int = 1,
) -> None:
    """Serve a Streamlit script until Ctrl-C. Does not return: this process becomes the server.

    So whatever ends this process ends the page, too. arguments: what the script finds in ``sys.argv[1:]``.
    port: 0 takes a free one. upload_mb: the most that a visitor may send. Raises CourseError if the address
    cannot be had.
    """
    port = _free(host, port)
    if host not in LOOPBACK:
        print(f"注意：页面对 {host} 能到达的所有人开放，没有密码。", flush=True)
    print(f"页面地址：{address(host, port)} （按 Ctrl-C 停下）", flush=True)
    options = {"server.address": host, "server.port": port, **OPTIONS}
    options["server.maxUploadSize"] = upload_mb
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += [f"--{name}={value}" for name, value in options.items()]
    if "STREAMLIT_SERVER_ALLOWED_HOSTS" not in os.environ:  # for those behind a proxy
        command += [f"--server.allowedHosts={name}" for name in names(host)]
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nowhere:  # Streamlit's own greeting
        os.dup2(nowhere.fileno(), 1)
    os.execv(sys.executable, [*command, "--", *map(str, arguments)])


def address(host: str, port: int) -> str:
    """Return what one writes into a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def names(host: str) -> list[str]:
    """Return the names and addresses under which a browser may know a server that listens on ``host``.

    A page of a stranger whose name was made to lead to this machine (DNS rebinding) comes with another one.
    Those in ``$TIANJI_ALLOWED_HOSTS``, separated by commas, are names of ours, too: a proxy's, say.
    """
    own = [*LOOPBACK, host, *filter(None, os.environ.get("TIANJI_ALLOWED_HOSTS", "").split(","))]
    if host in EVERYWHERE:
        import psutil

        own.append(socket.gethostname())
        own += [one.address for some in psutil.net_if_addrs().values() for one in some]
    return list(dict.fromkeys(own))


def _free(host: str, port: int) -> int:
    """Return the port if the address can be had."""
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ) as server:
            return int(server.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise CourseError(
            f"不能在 {host}:{port} 上开网页（{error}）。请换一个端口（如 --port 8601），或停下占用它的程序。"
        ) from error


def render(template: str, **values) -> str:
    """Return a page that needs nothing else, made from ``<template>.j2``; HTML is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(paths.TOOLBOX),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{template}.j2").render(policy=POLICY, **values)
