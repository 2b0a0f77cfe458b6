"""A folder that a demo platform runs as it is: the page, a model, pinned requirements.

OpenXLab and ModelScope Studio start ``app.py`` with Streamlit; Hugging Face Spaces, which has no
Streamlit of its own any more (since 2025-04-30), builds the Dockerfile. All three look at port 7860.
The folder holds no file but those listed here, and no path of the machine that wrote it.
"""

import json
import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from tianji_helpers import paths, records, wishes
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.training import inspection, models
from tianji_toolbox import pages
from tianji_toolbox.shipping import app, export, leaks

PLATFORMS = {"openxlab": "OpenXLab", "modelscope": "ModelScope 创空间", "huggingface": "Hugging Face Spaces"}
PORT = 7860
NEEDS = (
    "streamlit",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "einops",
    "jinja2",
    "pyyaml",
    "msgspec",
)
PYTHONS = ("3.10", "3.11", "3.12")
_NO_CACHE = shutil.ignore_patterns("__pycache__")

DOCKERFILE = """\
FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
# Spaces run as this user
RUN useradd --create-home --uid 1000 user
COPY --chown=user . .
USER user
EXPOSE {port}
CMD ["python", "app.py"]
"""
MODELSCOPE = {
    "$schema": "https://modelscope.cn/api/v1/studios/deploy_schema.json",
    "sdk_type": "streamlit",
    "resource_configuration": "platform/2v-cpu-16g-mem",
    "base_image": "ubuntu22.04-py311-torch2.3.1-modelscope1.31.0",
}
FRONT_MATTER = """\
---
title: 送祝福
emoji: 🏮
colorFrom: red
colorTo: yellow
sdk: docker
app_port: {port}
---
"""
README = """\
# 送祝福

一个微调过的小模型，替你写祝福：挑对象、场景和风格，或者自己写一句。

- 在自己的电脑上试：`pip install -r requirements.txt`，再 `python app.py --local`。网页只有这台机器能打开。
- 平台上运行：`python app.py` 或 `streamlit run app.py`，端口 {port}。这时用 `.streamlit/config.toml`：
  在所有网络地址上监听（0.0.0.0），不查域名、来源和 XSRF 令牌，因为平台的代理用它自己的域名来访问。
  能连到的人都能用，没有密码，所以不要在自己的电脑上这样启动。
- 基座模型：{base}；它的许可证（{licence}）也约束这个模型。
- 回答由模型生成，可能不得体、不准确，发出去之前请自己读一遍。
"""
STEPS = {
    "openxlab": "把这个文件夹推到一个 GitHub 仓库（大文件用 Git LFS），在 OpenXLab 应用中心新建 Streamlit "
    "应用，选这个仓库，入口文件是 app.py。",
    "modelscope": "在 modelscope.cn 新建创空间，上传整个文件夹（ms_deploy.json 里写着 Streamlit 和机器"
    "规格），或者用 git 推到创空间的仓库（大文件用 Git LFS）。",
    "huggingface": "在 huggingface.co 新建一个 Docker Space，再运行 "
    "hf upload 用户名/空间名 这个文件夹 . --repo-type space。",
}


def write(model_dir: str | Path, platform: str, folder: str | Path) -> Path:
    """Write the app folder of a model and return it; it appears only when it is complete.

    model_dir: a whole model, merged if it was trained with an adapter. platform: one of ``PLATFORMS``.
    folder: a new or empty folder. Raises CourseError for another platform, a folder that holds
    something, a model folder that is not whole, or a model that sees.
    """
    check_known(platform, PLATFORMS, "平台")
    folder = paths.expand(folder).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CourseError(f"{folder} 里已经有东西，不会覆盖。请换一个新的文件夹名，或先清空它。")
    model = inspection.inspect_model(model_dir)
    export.refuse_eyes(model.path)
    known = models.recorded(model.path)
    entry = models.CATALOGUE.get(known.get("base_model") or known.get("name"))
    with records.scratch(folder) as place:
        part = place / "app"
        _copy_model(model, entry, part)
        _copy_package(part)
        _write_settings(part, platform, entry)
        part.chmod(0o755)
        records.sync(part)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    return folder


def _copy_model(model: inspection.ModelFolder, entry: models.BaseModel | None, part: Path) -> None:
    from tianji_helpers.training import internlm2

    target = part / app.MODEL
    target.mkdir(parents=True)
    for file in sorted(model.path.iterdir()):
        if file.suffix in inspection.SUFFIXES:
            if file.is_symlink() or not file.is_file():
                raise CourseError(f"{file} 不是普通文件（符号链接会带出别的文件），不能放进应用里。")
            leaks.inspect(file)
            shutil.copyfile(file, target / file.name)
    known = {"system": models.recorded(model.path).get("system", wishes.SYSTEM)}
    if entry:
        known["base_model"] = entry.name
    for notice in export.notices(model.path, entry):
        leaks.inspect(notice)
        shutil.copyfile(notice, target / notice.name)
    records.write_provenance(target, stage="app", parameters=known)
    if model.config["model_type"] == internlm2.MODEL_TYPE:
        place = part / "xtuner"  # where the package looks for the architecture
        place.mkdir()
        (place / "__init__.py").touch()
        files = internlm2.architecture()
        shutil.copytree(files, place / files.relative_to(files.parents[2]), ignore=_NO_CACHE)


def _copy_package(part: Path) -> None:
    for package in (paths.HELPERS, paths.TOOLBOX):
        shutil.copytree(package, part / package.name, ignore=_NO_CACHE)
    shutil.copytree(paths.DATA / "wishes", part / "data" / "wishes")
    shutil.copyfile(app.__file__, part / "app.py")
    for name in ("LICENSE", "NOTICE"):
        shutil.copyfile(paths.ROOT / name, part / name)


def _write_settings(part: Path, platform: str, entry: models.BaseModel | None) -> None:
    def put(name: str, text: str) -> None:
        with records.atomic_writer(part / name) as file:
            file.write(text)

    put("requirements.txt", "\n".join(requirements()) + "\n")
    put(".streamlit/config.toml", _config())
    put(".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    base, licence = (entry.name, entry.licence) if entry else ("（请填写）", "请填写")
    text = README.format(port=PORT, base=base, licence=licence) + f"- 部署：{STEPS[platform]}\n"
    if platform == "huggingface":
        put("Dockerfile", DOCKERFILE.format(port=PORT))
        text = FRONT_MATTER.format(port=PORT) + text
    elif platform == "modelscope":
        put("ms_deploy.json", json.dumps(MODELSCOPE, ensure_ascii=False, indent=2) + "\n")
    put("README.md", text)


def _config() -> str:
    """Return Streamlit's settings: the demo's own, and what a page behind a platform's proxy needs.

    With ``--local``, ``app.py`` puts ``pages.OPTIONS`` and this machine's address before them.
    """
    options = {"server.address": "0.0.0.0", "server.port": PORT, **pages.OPTIONS}
    # the proxy's host name is another one; there are no cookies and no uploads to protect
    options |= {"server.enableCORS": "false", "server.enableXsrfProtection": "false"}
    words = {
        name: value if value in ("true", "false") else json.dumps(value) for name, value in options.items()
    }
    return "".join(f"{name} = {word}\n" for name, word in words.items())


def requirements(names: Iterable[str] = NEEDS) -> list[str]:
    """Return the pins of requirements.lock for these packages and all that they need on Linux."""
    from packaging.markers import default_environment
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock: dict[str, list[str]] = {}
    for line in re.findall(
        r"^\w.*?(?= *\\?$)", records.read_text(paths.ROOT / "requirements.lock"), re.MULTILINE
    ):
        lock.setdefault(canonicalize_name(re.split(r"[=\[; ]", line)[0]), []).append(line)
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    places = [
        default_environment() | linux | {"python_version": python, "python_full_version": f"{python}.9"}
        for python in PYTHONS
    ]
    wanted, found = [Requirement(name) for name in names], {}
    while wanted:
        need = wanted.pop()
        name = canonicalize_name(need.name)
        if name in found and need.extras <= found[name]:
            continue
        found[name] = extras = found.get(name, set()) | need.extras
        try:
            inner = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # of another Python version: what it needs is, too
            continue
        wanted += [
            other
            for other in inner
            if not other.marker
            or any(
                other.marker.evaluate(place | {"extra": extra}) for place in places for extra in {"", *extras}
            )
        ]
    return [line for name in sorted(found) for line in lock.get(name, [])]
