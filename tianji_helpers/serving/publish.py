"""Publish a model: lay out exactly what would go up, look into every file, and only then upload.

``prepare`` writes a folder beside the model, ``<model>.publish/<platform>``, with what the platform
will get: hard links to the weights (no copy, no disk space), the generated card, and the licence texts
of the base model. Files that the course does not know are refused rather than passed over, because
what slips into a public repository stays there. ``upload`` sends the folder through the platform's own
client, or, where that is git, through git and Git LFS; all of them skip what the platform already has, so a
broken upload goes on when it is run again. Tokens come from the environment or ``.env`` and go nowhere but
to that client.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.serving import card, export, git_push
from tianji_helpers.training import checkpoints

PLATFORMS = ("modelscope", "huggingface", "openxlab")
TOKENS = {
    "modelscope": "MODELSCOPE_API_TOKEN",
    "huggingface": "HF_TOKEN",
    "openxlab": "OPENXLAB_GIT_TOKEN",
}
PUBLISHED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "Modelfile",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
    "NOTICE*",
    "GEMMA_TERMS*",
)
LEFT_OUT = {
    "README.md": "由生成的模型卡代替",
    "xtuner_config.py": "训练配置里有本机路径；参数已写进模型卡",
}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KEYS = re.compile(
    rb"\b(?:sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,}|ms-[0-9a-f]{8}-[0-9a-f-]{27}|AKIA[A-Z0-9]{16}"
    rb"|gh[pousr]_[A-Za-z0-9]{30,}|[0-9a-f]{32}\.[A-Za-z0-9]{16})\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_PERSONAL_PATHS = re.compile(rb"(?:/home/|/Users/|/root/|[A-Z]:\\{1,2}Users\\{1,2})[\w.-]+")
_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD)$")


@dataclass(frozen=True)
class Plan:
    """What would be published.

    folder: holds exactly the files that go up. files: (name, bytes), sorted by name. left_out: files
    of the model's folder that stay at home, with the reason.
    """

    platform: str
    repo: str
    folder: Path
    files: list[tuple[str, int]]
    left_out: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.platform}：{self.repo}，共 {len(self.files)} 个文件"]
        lines += [f"{size:>15,} 字节  {name}" for name, size in self.files]
        lines += [f"        不上传  {name}（{reason}）" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def prepare(model_dir: str | Path, platform: str, repo: str, *, run: str | Path = "") -> Plan:
    """Lay out what would be published, check it, and return the list. Nothing leaves this machine.

    model_dir: a merged model, an adapter, or a folder of ``tianji export``. platform: one of
    ``PLATFORMS``. repo: ``owner/name``. run: the run of the course that made the model; empty means
    the one that the folder lies in.
    Raises CourseError for a model that is not whole, and naming the file that must not go along:
    unknown files and folders, keys, personal paths, training data, Python code that is not the base's.
    """
    if platform not in PLATFORMS:
        raise CourseError(f"没有叫 {platform} 的平台。可选：{'、'.join(PLATFORMS)}。")
    if not _REPO.fullmatch(repo):
        raise CourseError(f"仓库名 {repo!r} 应当是“用户名/仓库名”，只用字母、数字、_、- 和 .。")
    model_dir = paths.resolve(model_dir)
    facts = card.gather(model_dir, run)
    if facts.kind == "merged":
        checkpoints.inspect_model(model_dir)
    elif facts.kind == "adapter":
        checkpoints.inspect_adapter(model_dir)
    chosen, left_out = _choose(model_dir)
    folder = model_dir.with_name(f"{model_dir.name}.publish") / platform
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, source in (
        {notice.name: notice for notice in export.notices(model_dir, facts.base)} | chosen
    ).items():
        _place(source, folder / name)
    if facts.kind == "adapter":
        _name_base(folder / "adapter_config.json", facts, platform)
    (folder / "README.md").write_text(card.write(facts, repo, platform), encoding="utf-8")
    if platform == "openxlab":
        git_push.write_attributes(folder)
    for file in sorted(folder.iterdir()):
        inspect(file)
    files = [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]
    return Plan(platform, repo, folder, files, left_out)


def _choose(model_dir: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files to publish, by name, and those left out with the reason."""
    chosen, left_out, strangers = {}, {}, []
    for file in sorted(model_dir.iterdir()):
        if file.name in LEFT_OUT:
            left_out[file.name] = LEFT_OUT[file.name]
        elif file.is_file() and any(fnmatch(file.name, pattern) for pattern in PUBLISHED):
            chosen[file.name] = file
        else:
            strangers.append(file.name + ("/" if file.is_dir() else ""))
    if strangers:
        raise CourseError(
            f"{paths.show(model_dir)} 里有不属于模型的东西：{'、'.join(strangers)}。训练数据、密钥、检查点"
            "（.pth、.bin 可能藏着代码）都不能发布。请先把它们移出这个文件夹。"
        )
    return chosen, left_out


def _place(source: Path, target: Path) -> None:
    """Put a file into the folder: weights as a hard link, the rest as a copy that one may edit."""
    source = source.resolve()
    if source.suffix in (".safetensors", ".gguf"):
        try:
            target.hardlink_to(source)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)


def _name_base(file: Path, facts: card.Facts, platform: str) -> None:
    """Replace the path of the base model on this machine by its name on the hub."""
    config = records.read_json(file)
    config["base_model_name_or_path"] = getattr(
        facts.base, "modelscope" if platform == "modelscope" else "huggingface"
    )
    records.write_json(file, config)


def inspect(file: str | Path) -> None:
    """Look into a file that is to be published: its text, or the text before a weights file's numbers.

    Raises CourseError naming the file and what is wrong: a key (one that looks like a key, or one that
    stands in the environment or ``.env``), a path of somebody's home or of this project, training data.
    The message shows no more of a key than its first four characters.
    """
    file = Path(file)
    text = _text(file)
    found = _KEYS.search(text)
    secret = found[0] if found else next((value for value in _secrets() if value in text), None)
    if secret:
        raise CourseError(
            f"{file.name} 里有像密钥的内容（{secret[:4].decode(errors='replace')}…），不能发布。"
            "请删掉它；如果密钥是真的，还要去服务商那里作废。"
        )
    own = next(
        (path for path in (paths.ROOT, Path.home()) if len(path.parts) > 1 and _holds(text, path)), None
    )
    personal = str(own) if own else next((m[0].decode() for m in _PERSONAL_PATHS.finditer(text)), None)
    if personal:
        raise CourseError(
            f"{file.name} 里有这台机器上的路径 {personal}，会泄露用户名，不能发布。请把它改成模型名或删掉。"
        )
    if file.suffix == ".json" and _is_training_data(text):
        raise CourseError(f"{file.name} 看起来是训练数据（里面有对话），不能和模型一起发布。请把它移走。")


def _text(file: Path) -> bytes:
    """Return what of a file can hold text; of weights, that is what stands before the numbers."""
    if file.suffix == ".safetensors":
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            return opened.read(min(length, 100_000_000))
    if file.suffix == ".gguf":
        import gguf

        try:
            length = gguf.GGUFReader(file).data_offset
        except (ValueError, IndexError) as error:
            raise CourseError(f"{file.name} 不完整，或不是 GGUF 文件。请重新导出。") from error
        with file.open("rb") as opened:
            return opened.read(length)
    return file.read_bytes()


def _holds(text: bytes, path: Path) -> bool:
    return re.search(re.escape(str(path).encode()) + rb"(?![\w.-])", text) is not None


def _secrets() -> list[bytes]:
    """Return the values of keys, tokens and passwords in the environment and ``.env``."""
    from dotenv import dotenv_values

    values = dotenv_values(paths.ROOT / ".env") | os.environ
    return [
        value.encode()
        for name, value in values.items()
        if value and len(value) >= 8 and _SECRET_NAME.search(name)
    ]


def _is_training_data(text: bytes) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    rows = value if isinstance(value, list) else [value]
    return any(
        isinstance(row, dict) and {"conversation", "messages", "instruction"} & row.keys() for row in rows
    )


def upload(
    plan: Plan, *, private: bool = False, endpoint: str = "", report: Callable[[str], None] = print
) -> str:
    """Send what ``prepare`` laid out through the platform's own client and return the page's address.

    private: whether the repository is visible to its owner only (where it is made by this call).
    endpoint: a mirror or test server; empty means the platform's own address. A repository that is
    there already gets another commit; OpenXLab's must be there. Raises CourseError for a missing token,
    what the platform cannot do, or a failed upload; running it again goes on where it stopped.
    """
    if private and plan.platform == "openxlab":
        raise CourseError("OpenXLab 的仓库是在网页上新建的，公开还是私有也在那里选。请去掉 --private。")
    token = _token(plan.platform)
    report(f"上传到 {plan.platform} 的 {plan.repo} …")
    send = {"modelscope": _to_modelscope, "huggingface": _to_huggingface, "openxlab": _to_openxlab}
    try:
        return send[plan.platform](plan, token, private, endpoint)
    except CourseError:
        raise
    except Exception as error:  # the clients raise many kinds; all mean: not complete yet
        message = f"{type(error).__name__}: {error}".replace(token, "***")
        raise CourseError(
            f"没能上传到 {plan.platform} 的 {plan.repo}：{message}\n请检查网络、令牌的写权限和仓库名，"
            "再运行一次同样的命令：已经传完的文件不会再传。"
        ) from None  # the cause may hold the token


def _token(platform: str) -> str:
    from dotenv import dotenv_values

    name = TOKENS[platform]
    token = (os.environ.get(name) or dotenv_values(paths.ROOT / ".env").get(name) or "").strip()
    if not token:
        raise CourseError(
            f"没有找到 {platform} 的令牌。请在平台的网页上建一个有写权限的访问令牌，设成环境变量 {name}，"
            f"或在项目根目录的 .env 里写一行 {name}=你的令牌（不要写进 notebook）。"
        )
    return token


def _to_huggingface(plan: Plan, token: str, private: bool, endpoint: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint.rstrip("/") or None, token=token)
    api.create_repo(plan.repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=plan.repo, folder_path=plan.folder, commit_message="Upload model")
    return f"{api.endpoint}/{plan.repo}"


def _to_modelscope(plan: Plan, token: str, private: bool, endpoint: str) -> str:
    from modelscope_hub import HubApi

    api = HubApi(token=token, endpoint=endpoint or None)
    if not api.repo_exists(plan.repo, "model"):
        api.create_repo(plan.repo, "model", visibility="private" if private else "public", license="Other")
    api.upload_folder(
        plan.repo,
        "model",
        plan.folder,
        commit_message="Upload model",
        # outside the folder, which is laid out anew each time
        tracker_path=plan.folder.with_name(".modelscope_uploaded"),
    )
    return f"{api._config.endpoint}/models/{plan.repo}"


def _to_openxlab(plan: Plan, token: str, private: bool, endpoint: str) -> str:
    url = f"{endpoint.rstrip('/') or card.OPENXLAB}/{plan.repo}"
    git_push.push(plan.folder, f"{url}.git", plan.repo.split("/")[0], token, "Upload model")
    return url
