"""Fetching from Hugging Face and ModelScope through their own clients.

A download goes into a folder of its own, goes on where it stopped, and is compared with what the hub
lists: the folder is whole when ``fetch`` returns. The hubs' mirrors are reached through ``endpoint`` or
the clients' own settings (``HF_ENDPOINT``, ``MODELSCOPE_ENDPOINT``).
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tianji_helpers import records, redaction
from tianji_helpers.errors import CourseError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

SOURCES = ("modelscope", "huggingface")
HOMES = {"modelscope": "https://www.modelscope.cn", "huggingface": "https://huggingface.co"}
_PREFIXES = {"modelscope": "MODELSCOPE", "huggingface": "HF"}  # of the clients' own settings


def check_address(url: str, name: str) -> None:
    """Raise CourseError if an address holds a password, or anything else behind its path.

    name: of the parameter. Addresses are shown, and kept in records and commands' histories.
    """
    if (plain := redaction.shown(url)) != url:
        raise CourseError(
            f"{name}（{plain}）里不能带用户名、密码、? 或 #：地址会显示出来，也会写进记录。请只写到路径为止；"
            "密钥和令牌放在环境变量或 .env 里。"
        )


def check_proxy(url: str, package: str = "", bypass: bool = True) -> None:
    """Raise CourseError if the way to an address leads through a SOCKS proxy that the client cannot use.

    package: the module with which the client could; it is no part of the course's environment. bypass:
    whether the client leaves a proxy alone that ``NO_PROXY`` spares it.
    """
    place = urlsplit(url)
    known = getproxies()
    proxy = known.get(place.scheme) or known.get("all", "")
    if not proxy.lower().startswith("socks") or (bypass and proxy_bypass(place.hostname or "")):
        return
    if package and find_spec(package):
        return
    raise CourseError(
        f"环境变量里的代理是 SOCKS（{redaction.shown(proxy)}），这里的客户端不认识它，所以连不上 "
        f"{place.hostname}。不需要代理，就运行 unset HTTPS_PROXY HTTP_PROXY ALL_PROXY https_proxy http_proxy "
        "all_proxy；需要，就改用代理程序的 HTTP 端口，例如 export HTTPS_PROXY=http://127.0.0.1:7890。"
    )


def check_hub(source: str, endpoint: str) -> None:
    """Raise CourseError if a hub's address holds a password, or lies behind a proxy that cannot be used."""
    variable = f"{_PREFIXES[source]}_ENDPOINT"
    address = endpoint or os.environ.get(variable) or HOMES[source]
    check_address(address, "--endpoint" if endpoint else variable)
    check_proxy(address, "socks")


def fetch(
    source: str,
    repository: str,
    revision: str,
    folder: Path,
    *,
    endpoint: str = "",
    kind: str = "model",
    needed: Sequence[str],
    only_needed: bool = False,
) -> dict[str, str]:
    """Fetch a repository into ``folder`` and return where it came from, for the provenance.

    source: one of ``SOURCES``. revision: a Hugging Face commit or branch, a ModelScope tag or branch.
    endpoint: a mirror; empty means the client's own setting. kind: ``model`` or ``dataset``. needed:
    paths in the repository that must be there; only_needed: fetch nothing else.
    Returns ``source``, ``repository``, ``revision`` and, from Hugging Face, ``commit``.
    Raises CourseError for a client that was told to stay offline, or a failed download; what was
    fetched stays for the next try.
    """
    check_hub(source, endpoint)
    origin = {"source": source, "repository": repository, "revision": revision}
    download = _fetch_huggingface if source == "huggingface" else _fetch_modelscope
    try:
        origin |= download(
            repository, revision, endpoint, folder, kind, list(needed) if only_needed else None
        )
        for name in needed:
            if not (folder / name).is_file():
                raise ValueError(f"仓库里没有 {name}")
    except CourseError:
        raise
    except Exception as error:  # the clients raise many kinds; all mean: not complete yet
        raise CourseError(
            f"没能从 {source} 下载 {repository}@{revision}：{type(error).__name__}: {error}\n"
            "请检查网络后再运行一次（已下载的部分会保留）；也可以换下载源 --source "
            f"{'|'.join(SOURCES)}，或用 --endpoint 指定镜像。"
        ) from error
    return origin


def _fetch_huggingface(
    repository: str, revision: str, endpoint: str, folder: Path, kind: str, only: list[str] | None
) -> dict[str, str]:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise CourseError(
            "环境变量 HF_HUB_OFFLINE（或 TRANSFORMERS_OFFLINE）禁止访问 Hugging Face，所以没有下载。"
            "请先 unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE 再运行；也可以换下载源 --source modelscope。"
        )
    api = HfApi(endpoint=endpoint.rstrip("/") or None)
    # Asked first, because snapshot_download takes any non-empty folder for the repository when the hub
    # is out of reach; and its own check is the size, not the content (huggingface_hub 0.36).
    info = api.repo_info(repository, repo_type=kind, revision=revision, files_metadata=True, timeout=30)
    api.snapshot_download(
        repository, repo_type=kind, revision=revision, local_dir=folder, allow_patterns=only
    )
    for file in info.siblings or []:
        if only is None or file.rfilename in only:
            _check(folder / file.rfilename, file)
    shutil.rmtree(folder / ".cache")  # the client's notes about the download
    return {"commit": str(info.sha)}


def _check(path: Path, listed: "RepoSibling") -> None:
    """Compare a file with what Hugging Face lists: the SHA-256 of a large one, the git id of a small one."""
    if not path.is_file():
        raise ValueError(f"{listed.rfilename} 没有下载下来")
    if listed.lfs:
        whole = records.sha256(path) == listed.lfs.sha256
    elif listed.blob_id:
        content = path.read_bytes()
        whole = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == listed.blob_id
    else:
        return
    if not whole:
        path.unlink()
        raise ValueError(f"{listed.rfilename} 的内容和仓库登记的校验和不一致，已删除")


def _fetch_modelscope(
    repository: str, revision: str, endpoint: str, folder: Path, kind: str, only: list[str] | None
) -> dict[str, str]:
    from modelscope import dataset_snapshot_download, snapshot_download

    # both check sizes and SHA-256 themselves
    download = snapshot_download if kind == "model" else dataset_snapshot_download
    download(
        repository,
        revision=revision,
        local_dir=str(folder),
        endpoint=endpoint or None,
        allow_patterns=only,
    )
    return {}
