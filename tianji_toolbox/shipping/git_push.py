"""Send a folder to a model repository that takes git and Git LFS, as OpenXLab's does.

git and git-lfs do the sending, with the commands that one would type: clone the newest commit, add the files
of the folder, commit, push. The clone lasts as long as the upload and lies beside the folder, where Git LFS
has room for its copy of the weights; nothing is checked out and no hook runs. Git LFS asks the server which
weights it has already, so a broken upload goes on when it is run again.

The token stands in the environment of these processes only: in no command line, address or file. Its
helper answers the repository's own server and no other.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tianji_helpers import locks
from tianji_helpers.errors import CourseError

ATTRIBUTES = ".gitattributes"
WEIGHTS = (".safetensors", ".gguf")
LARGE_BYTES = 5_000_000  # hubs refuse large files outside LFS; the smallest limit known is 10 MB
_BY_LFS = " filter=lfs diff=lfs merge=lfs -text\n"
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
    with locks.scratch(folder) as scratch:
        place = scratch / "clone"
        git = _Git(url, user, token)
        try:
            git("clone", "--quiet", "--depth=1", "--no-checkout", "--template=", url, str(place))
        except RuntimeError as error:
            if "not found" not in str(error):
                raise
            raise CourseError(
                f"没有找到仓库 {url}。请先在平台的网页上新建同名的模型仓库（公开还是私有也在"
                "那里选），再运行一次；如果已经建好，请检查仓库名和令牌的写权限。"
            ) from None
        git.environment |= {"GIT_DIR": f"{place}/.git", "GIT_WORK_TREE": str(folder.resolve())}
        git("reset", "--quiet")  # from here on, what is not in the folder stays as it is
        if git("ls-files", ATTRIBUTES):
            _join_attributes(folder / ATTRIBUTES, git("show", f":{ATTRIBUTES}"))
        git("add", "--force", "--no-all", ":/")
        if git("diff", "--cached", "--name-only"):
            git("commit", "--quiet", "-m", message)
            git("lfs", "push", "origin", "HEAD", shown=True)  # its progress goes to the terminal
            git("push", "--quiet", "origin", "HEAD")


def _join_attributes(file: Path, theirs: str) -> None:
    ours = file.read_text(encoding="utf-8").splitlines()
    lines = [*(line for line in theirs.splitlines() if line not in ours), *ours]  # of two the later holds
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


class _Git:
    """git for one address and one user, with none of what surrounds us: that may be a hook of another
    repository. Of the user's own settings the proxies may matter."""

    def __init__(self, url: str, user: str, token: str):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self.environment = kept | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "LC_ALL": "C",
            "TIANJI_GIT_USER": user,
            "TIANJI_GIT_TOKEN": token,
        }
        server = urlsplit(url)
        self._settings = [
            f"user.name={user}",
            f"user.email={user}@users.noreply.invalid",
            "commit.gpgSign=false",
            "init.defaultBranch=main",
            "core.autocrlf=false",
            "core.attributesFile=/dev/null",
            "core.hooksPath=/dev/null",
            "filter.lfs.process=git-lfs filter-process",
            "filter.lfs.required=true",
            "credential.helper=",  # forget the user's own
            f"credential.{server.scheme}://{server.netloc}.helper={_HELPER}",
            "http.lowSpeedLimit=1",  # bytes a second, for so many seconds
            "http.lowSpeedTime=60",
            f"lfs.{url}/info/lfs.locksverify=false",
        ]

    def __call__(self, *arguments: str, shown: bool = False) -> str:
        """Run git and return what it says. shown: leave that to the terminal."""
        options = [word for setting in self._settings for word in ("-c", setting)]
        done = subprocess.run(
            ["git", *options, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=None if shown else subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"git {arguments[0]}: {done.returncode}")
        return (done.stdout or "").strip()
