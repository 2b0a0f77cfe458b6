"""Publish a model: lay out exactly what would go up, look into every file, and only then upload.

``prepare`` writes a folder beside the model, ``<model>.publish/<platform>``, with what the platform
will get: hard links to the weights (no copy, no disk space), the generated card, and the licence texts
of the base model. Files that the course does not know are refused rather than passed over, because
what slips into a public repository stays there. ``upload`` sends the folder through the platform's own
client, or, where that is git, through git and Git LFS; all of them skip what the platform already has, so a
broken upload goes on when it is run again. Tokens come from the environment or ``.env`` and go nowhere but
to that client.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import hubs, paths, records
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.training import inspection, launch
from tianji_toolbox.shipping import card, export, git_push, leaks

PLATFORMS = ("modelscope", "huggingface", "openxlab")
TOKENS = {
    "modelscope": "MODELSCOPE_API_TOKEN",
    "huggingface": "HF_TOKEN",
    "openxlab": "OPENXLAB_GIT_TOKEN",
}
PUBLISHED = (
    *export.NOTICES,
    "Modelfile",
    "model.safetensors.index.json",
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
)  # and the weights that the model consists of
LEFT_OUT = {
    "README.md": "由生成的模型卡代替",
    "xtuner_config.py": "训练配置里有本机路径；参数已写进模型卡",
}
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Publication:
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


def prepare(model_dir: str | Path, platform: str, repo: str, *, run: str | Path = "") -> Publication:
    """Lay out what would be published, check it, and return the list. Nothing leaves this machine.

    model_dir: a merged model, an adapter, or a folder of ``tianji export``. platform: one of
    ``PLATFORMS``. repo: ``owner/name``. run: the run of the course that made the model; empty means
    the one that the folder lies in.
    Raises CourseError for a model that is not whole or one that sees, and naming the file that must not go
    along: unknown files and folders, keys, personal paths, training data, Python code that is not the base's.
    """
    check_known(platform, PLATFORMS, "平台")
    if not _REPO.fullmatch(repo) or ".." in repo or repo.endswith((".", ".git", ".lock")):
        raise CourseError(f"仓库名 {repo!r} 应当是“用户名/仓库名”，只用字母、数字、_、- 和 .。")
    model_dir = paths.resolve(model_dir)
    facts = card.gather(model_dir, run)
    if facts.kind == "merged":
        weights = inspection.inspect_model(model_dir).weights
        export.refuse_eyes(model_dir)
    elif facts.kind == "adapter":
        weights = (inspection.inspect_adapter(model_dir).weights,)
    else:
        weights = tuple(model_dir.glob("*.gguf"))
    chosen, left_out = _choose(model_dir, {file.name for file in weights})
    folder = model_dir.with_name(f"{model_dir.name}.publish") / platform
    if folder.is_symlink() or folder.parent.is_symlink():
        raise CourseError(f"{folder} 是符号链接，不会往那里写。请先删掉它。")
    with launch.new_folder(folder, stage="publish", parameters={"repo": repo}) as (part, _):
        part.mkdir()
        for name, source in (
            {notice.name: notice for notice in export.notices(model_dir, facts.base)} | chosen
        ).items():
            _place(source, part / name)
        if facts.kind == "adapter":
            config = records.read_json(part / "adapter_config.json")  # it names a folder of this machine
            config["base_model_name_or_path"] = card.hub_name(facts.base, platform)
            records.write_json(part / "adapter_config.json", config)
        (part / "README.md").write_text(card.write(facts, repo, platform), encoding="utf-8")
        if platform == "openxlab":
            git_push.write_attributes(part)
        for file in sorted(part.iterdir()):
            leaks.inspect(file)
    files = [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]
    return Publication(platform, repo, folder, files, left_out)


def _choose(model_dir: Path, weights: set[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files to publish, by name, and those left out with the reason."""
    chosen, left_out, strangers = {}, {}, []
    for file in sorted(model_dir.iterdir()):
        # a link leads to what nobody put here, a pipe to a process
        is_plain = not file.is_symlink() and file.is_file()
        if file.name in LEFT_OUT:
            left_out[file.name] = LEFT_OUT[file.name]
        elif is_plain and (file.name in PUBLISHED or file.name in weights):
            chosen[file.name] = file
        else:
            kind = "（符号链接）" if file.is_symlink() else "/" if file.is_dir() else ""
            strangers.append((file.name if file.name.isprintable() else repr(file.name)) + kind)
    if strangers:
        raise CourseError(
            f"{paths.told(model_dir)} 里有不属于模型的东西：{'、'.join(strangers)}。训练数据、密钥、代码、"
            "符号链接、检查点（.pth、.bin 可能藏着程序）都不能发布。请先把它们移出这个文件夹。"
        )
    return chosen, left_out


def _place(source: Path, target: Path) -> None:
    """Put a file into the folder: weights as a hard link, the rest as a copy that one may edit."""
    if source.suffix in (".safetensors", ".gguf"):
        try:
            target.hardlink_to(source)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)


def upload(plan: Publication, *, private: bool = False, endpoint: str = "") -> str:
    """Send what ``prepare`` laid out through the platform's own client and return the page's address.

    private: whether the repository is visible to its owner only (where it is made by this call).
    endpoint: a mirror or test server; empty means the platform's own address. A repository that is
    there already gets another commit; OpenXLab's must be there. Raises CourseError for a missing token,
    what the platform cannot do, or a failed upload; running it again goes on where it stopped.
    """
    if private and plan.platform == "openxlab":
        raise CourseError("OpenXLab 的仓库是在网页上新建的，公开还是私有也在那里选。请去掉 --private。")
    hubs.check_address(endpoint, "--endpoint")
    if plan.platform in hubs.SOURCES:  # git speaks SOCKS
        hubs.check_hub(plan.platform, endpoint)
    token = _token(plan.platform)
    print(f"上传到 {plan.platform} 的 {plan.repo} …")
    send = {"modelscope": _to_modelscope, "huggingface": _to_huggingface, "openxlab": _to_openxlab}
    try:
        return send[plan.platform](plan, token, private, endpoint)
    except CourseError:
        raise
    except Exception as error:  # the clients raise many kinds; all mean: not complete yet
        raise CourseError(
            f"没能上传到 {plan.platform} 的 {plan.repo}：{type(error).__name__}: {error}\n请检查网络、"
            "令牌的写权限和仓库名，再运行一次同样的命令：已经传完的文件不会再传。"
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


def _to_huggingface(plan: Publication, token: str, private: bool, endpoint: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint.rstrip("/") or None, token=token)
    api.create_repo(plan.repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=plan.repo, folder_path=plan.folder, commit_message="Upload model")
    return f"{api.endpoint}/{plan.repo}"


def _to_modelscope(plan: Publication, token: str, private: bool, endpoint: str) -> str:
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


def _to_openxlab(plan: Publication, token: str, private: bool, endpoint: str) -> str:
    url = f"{endpoint.rstrip('/') or card.OPENXLAB}/{plan.repo}"
    try:
        git_push.push(plan.folder, f"{url}.git", plan.repo.split("/")[0], token, "Upload model")
    finally:  # the repository's own attributes may have come in, which are nobody's work
        records.write_provenance(plan.folder, stage="publish", parameters={"repo": plan.repo})
    return url
