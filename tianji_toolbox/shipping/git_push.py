"""Send a folder to a model repository that takes git and Git LFS, as OpenXLab's does.

git and git-lfs do the sending, as everywhere where one pushes a model by hand. The commit is put together
from the newest tree of the repository and the files of the folder, in a bare repository that lasts as long
as the upload: nothing is checked out, no hook runs, and the weights are not copied. Git LFS asks the server
which weights it has already, so a broken upload goes on when it is run again.

The token stands in the environment of these processes only: in no command line, address or file. Its
helper answers the repository's own server and no other.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from tianji_helpers import records
from tianji_helpers.errors import CourseError

ATTRIBUTES = ".gitattributes"
WEIGHTS = (".safetensors", ".gguf")
LARGE_BYTES = 5_000_000  # hubs refuse large files outside LFS; the smallest limit known is 10 MB
_BY_LFS = " filter=lfs diff=lfs merge=lfs -text\n"
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
_HELPER = (
    '!f() { test "$1" != get || '
    'printf "username=%s\\npassword=%s\\n" "$TIANJI_GIT_USER" "$TIANJI_GIT_TOKEN"; }; f'
)


def by_lfs(file: Path) -> bool:
    """Return whether a file goes up as a Git LFS object: weights, and whatever else is large."""
    return file.suffix in WEIGHTS or file.stat().st_size > LARGE_BYTES


def write_attributes(folder: Path) -> None:
    """Write the file that tells those who clone the repository which of its files are LFS objects."""
    others = sorted(file.name for file in folder.iterdir() if file.suffix not in WEIGHTS and by_lfs(file))
    lines = [pattern + _BY_LFS for pattern in (*(f"*{suffix}" for suffix in WEIGHTS), *others)]
    (folder / ATTRIBUTES).write_text("".join(lines), encoding="utf-8")


def push(folder: Path, url: str, user: str, token: str, message: str) -> None:
    """Add one commit to a repository: its newest tree with the files of ``folder`` put in.

    folder: files only; ``write_attributes`` has been there, and the lines that the repository's own
    ``.gitattributes`` has besides are added. url: the repository, which must
    be there; its default branch is taken. user, token: who pushes. If nothing has changed, no commit is
    made. Raises CourseError where git or git-lfs is missing or there is no such repository, and
    RuntimeError with git's words if anything else goes wrong.
    """
    for name, command in (("git", "git --version"), ("git-lfs", "git lfs version")):
        if not shutil.which("git") or subprocess.run(command.split(), capture_output=True).returncode:
            raise CourseError(
                f"上传要用 {name}，这台机器上没有。请安装（Ubuntu/Debian：apt install {name}；"
                f"conda：conda install {name}），再运行一次。"
            )
    with tempfile.TemporaryDirectory() as place:
        _Repository(Path(place), url, user, token).send(folder, message)


class _Repository:
    """A bare repository for one push. place: an empty folder."""

    def __init__(self, place: Path, url: str, user: str, token: str):
        self._place, self._url = place, url
        # what surrounds us may be another repository's hook; of one's settings the proxies may matter
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self._environment = kept | {
            "GIT_DIR": str(place),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_AUTHOR_NAME": user,
            "GIT_AUTHOR_EMAIL": f"{user}@users.noreply.invalid",
            "GIT_COMMITTER_NAME": user,
            "GIT_COMMITTER_EMAIL": f"{user}@users.noreply.invalid",
            "LC_ALL": "C",
            "TIANJI_GIT_USER": user,
            "TIANJI_GIT_TOKEN": token,
        }
        server = urlsplit(url)
        self._settings = [
            "core.hooksPath=/dev/null",
            "credential.helper=",  # forget the user's own
            f"credential.{server.scheme}://{server.netloc}.helper={_HELPER}",
            "http.lowSpeedLimit=1",  # bytes a second, for so many seconds
            "http.lowSpeedTime=60",
            f"remote.origin.url={url}",
            f"lfs.{url}/info/lfs.locksverify=false",
        ]

    def send(self, folder: Path, message: str) -> None:
        self._git("init", "--quiet", "--bare", "--template=")
        branch, parent = self._newest()
        if parent:
            self._git("read-tree", parent)
            self._join_attributes(folder, parent)
        objects = [self._add(file) for file in sorted(folder.iterdir())]
        tree = self._git("write-tree")
        if parent and tree == self._git("rev-parse", f"{parent}^{{tree}}"):
            return
        commit = self._git("commit-tree", tree, "-m", message, *(("-p", parent) if parent else ()))
        if large := [oid for oid in objects if oid]:
            # its progress goes to the terminal
            self._git("lfs", "push", "--object-id", "origin", *large, shown=True)
        self._git("push", "--quiet", "origin", f"{commit}:{branch}")

    def _newest(self) -> tuple[str, str]:
        """Return the default branch and its newest commit, which is fetched; empty if there is none."""
        try:
            heads = self._git("ls-remote", "--symref", "origin", "HEAD").splitlines()
        except RuntimeError as error:
            if "not found" in str(error):
                raise CourseError(
                    f"没有找到仓库 {self._url}。请先在平台的网页上新建同名的模型仓库（公开还是私有也在"
                    "那里选），再运行一次；如果已经建好，请检查仓库名和令牌的写权限。"
                ) from None
            raise
        named = [line.split()[1] for line in heads if line.startswith("ref:")]
        branch = named[0] if named else "refs/heads/main"
        if not any(line.endswith("\tHEAD") and not line.startswith("ref:") for line in heads):
            return branch, ""
        self._git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", branch)
        return branch, self._git("rev-parse", "FETCH_HEAD")

    def _join_attributes(self, folder: Path, parent: str) -> None:
        if self._git("ls-tree", parent, ATTRIBUTES):
            file = folder / ATTRIBUTES
            theirs = self._git("cat-file", "blob", f"{parent}:{ATTRIBUTES}").splitlines()
            ours = file.read_text(encoding="utf-8").splitlines()
            lines = [*(line for line in theirs if line not in ours), *ours]  # of two rules the later holds
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _add(self, file: Path) -> str:
        """Put a file into the index; return the id of its LFS object, if it is one."""
        oid = ""
        if by_lfs(file):
            oid = records.sha256(file)
            stored = self._place / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
            stored.parent.mkdir(parents=True, exist_ok=True)
            if not stored.exists():  # two files may be equal
                stored.symlink_to(file.resolve())
            pointer = _POINTER.format(oid=oid, size=file.stat().st_size)
            blob = self._git("hash-object", "-w", "--stdin", data=pointer)
        else:
            blob = self._git("hash-object", "-w", "--no-filters", str(file))
        self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{file.name}")
        return oid

    def _git(self, *arguments: str, data: str = "", shown: bool = False) -> str:
        """Run git and return what it says. data: its standard input. shown: leave that to the terminal."""
        options = [word for setting in self._settings for word in ("-c", setting)]
        done = subprocess.run(
            ["git", *options, *arguments],
            input=data,
            env=self._environment,
            stdout=None if shown else subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"git {arguments[0]}: {done.returncode}")
        return (done.stdout or "").strip()
