"""Look into a model or adapter folder before anything of it is loaded or run.

A folder may be half downloaded, of another model, or from a stranger. What can be told from its
JSON files and from the headers of its safetensors files is checked here, in milliseconds, and named;
no weight is read and no code of the folder is run. Pickled weights (``.bin``, ``.pth``, ``.pt``) are
programs: they are refused, whoever they come from.
"""

import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import models

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")  # of what a model consists of; no code
NAMING_CODE = ("config.json", "tokenizer_config.json")  # where ``auto_map`` stands
_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", None)

# of a layer; PEFT takes any regular expression
_Name = Annotated[str, msgspec.Meta(pattern=r"\A(?a:[A-Za-z_][\w-]*(\.[\w-]+)*)\Z", max_length=200)]
_MOST = msgspec.Meta(min_length=1, max_length=1000)  # PEFT tries each on each layer
_Names = Annotated[list[_Name], _MOST]
_Rank = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Alpha = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Layer = Annotated[int, msgspec.Meta(ge=0, le=10_000)]


class _Lora(msgspec.Struct, forbid_unknown_fields=True):
    """What an adapter may set. Else PEFT 0.17 would read files, import modules, copy layers or compute."""

    r: _Rank
    lora_alpha: _Alpha = 1
    lora_dropout: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0
    rank_pattern: Annotated[dict[_Name, _Rank], _MOST] | None = None
    alpha_pattern: Annotated[dict[_Name, _Alpha], _MOST] | None = None
    target_modules: _Names | Literal["all-linear"] = "all-linear"
    exclude_modules: _Names | None = None
    layers_to_transform: Annotated[list[_Layer], _MOST] | _Layer = 0
    layers_pattern: _Names | _Name = "layers"
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | Literal["gaussian"] = True
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    fan_in_fan_out: bool = False
    inference_mode: bool = False
    use_dora: bool = False
    use_rslora: bool = False
    # without effect when an adapter is loaded; the first is what AutoPeftModel, which is not used, imports
    auto_mapping: dict[str, Any] = {}
    peft_type: str = "LORA"
    base_model_name_or_path: str = ""
    revision: str = ""
    megatron_core: str = ""
    qalora_group_size: int = 0
    peft_version: str = ""


_MOST_GROWTH = 100  # of known tokenizers it is at most 20
_MANY = 10**6  # a larger number is not said; Python refuses to write more than 4,300 digits
# letters that one becomes in a part of a tokenizer, by its type; BERT's puts a character between two spaces
_GROWTH = {
    **{"Precompiled": 10, "ByteLevel": 4, "BertNormalizer": 3},
    **{"WordPiece": 2, "BPEDecoder": 2, "CTC": 2},  # a space for what stands in between, which may be nothing
}


class _Tokenizer(msgspec.Struct):
    """The parts of ``tokenizer.json`` that can multiply a text."""

    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    decoder: Any = None


@dataclass(frozen=True)
class ModelFolder:
    """A complete model folder. config: its ``config.json``. weights: the safetensors files, in
    order. shapes: the shape of each tensor by its name.
    """

    path: Path
    config: dict
    weights: tuple[Path, ...]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class AdapterFolder:
    """A complete LoRA adapter folder. config: its ``adapter_config.json``. shapes: as above."""

    path: Path
    config: dict
    weights: Path
    shapes: dict[str, tuple[int, ...]]


def inspect_model(folder: str | Path) -> ModelFolder:
    """Return what is in a model folder.

    Raises CourseError naming what is wrong: no folder, no model, an adapter, pickled weights, a
    missing shard, a truncated file, a tensor that the index promises, or no tokenizer.
    """
    hints = {
        "adapter_config.json": "它是适配器文件夹，要和基座模型一起用（--adapter）。",
        "": "基座模型用 tianji prepare-model 准备；合并后的模型由第 6 课写出。",
    }
    folder, config = _open(folder, "模型", "config.json", hints)
    shown = paths.told(folder)
    if not isinstance(config.get("model_type"), str):
        raise CourseError(f"{shown}/config.json 里没有 model_type，不是 Hugging Face 格式的模型。")
    _check_attention(config, shown)
    if (folder / "adapter_config.json").exists():
        raise CourseError(
            f"{shown} 里除了模型还有 adapter_config.json：transformers 会改去加载它指的另一个模型，"
            "所以不加载。请把适配器移到单独的文件夹，放在 --adapter 后面。"
        )
    if (folder / "custom_generate").exists():
        raise CourseError(
            f"{shown} 里有 custom_generate：transformers 会把里面的 Python 当作生成的办法来运行，所以不加载。"
            "请先删掉它。"
        )
    weights, promised = _weight_files(folder)
    shapes = {}
    for file in weights:
        shapes |= read_shapes(file)
    if missing := sorted(promised - shapes.keys()):
        raise CourseError(
            f"{shown} 的分片里缺少 {len(missing)} 个张量，例如 {missing[0]}。文件和索引 {INDEX} 对不上，"
            "请重新下载或重新合并。"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CourseError(
            f"{shown} 里没有分词器（{'、'.join(TOKENIZER_FILES)} 之一）。请把基座模型的分词器文件一起拷来。"
        )
    return ModelFolder(folder, config, tuple(weights), shapes)


def inspect_adapter(folder: str | Path, base: str | Path | ModelFolder | None = None) -> AdapterFolder:
    """Return what is in a LoRA adapter folder, checked against the model it is to sit on.

    base: that model; None checks the adapter alone. Raises CourseError naming what is wrong: no
    adapter, another kind than LoRA, pickled or truncated weights, a rank that differs from the
    config's, or layers that the base model does not have or has in another size.
    """
    whole_model = "它是完整的模型，不要放在 --adapter 后面。"
    hints = {"config.json": whole_model, "": "适配器由第 6 课从检查点转换得到。"}
    folder, config = _open(folder, "适配器", "adapter_config.json", hints)
    shown = paths.told(folder)
    if config.get("peft_type") != "LORA":
        raise CourseError(f"{shown} 的 peft_type 是 {config.get('peft_type')}，这里只支持 LORA。")
    _check_settings(config, shown)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        _refuse_pickle(folder)
        raise CourseError(f"{shown} 里没有 {ADAPTER_WEIGHTS}，适配器不完整。请重新转换。")
    adapter = AdapterFolder(folder, config, weights, read_shapes(weights))
    _check_ranks(adapter)
    if base is not None:
        _check_base(adapter, base if isinstance(base, ModelFolder) else inspect_model(base))
    return adapter


def sees(folder: str | Path) -> bool:
    """Whether a model's folder has eyes in it, as lesson 7 leaves it."""
    return (paths.resolve(folder) / "projector").is_dir()


def check_architecture(model: ModelFolder) -> None:
    """Make sure that transformers has the model's architecture; no code of its folder is ever run.

    ``auto_map`` and Python files are passed over, whoever they come from: a record beside a folder can
    travel with it, and a hub's branch or a mirror can change. Raises CourseError for an architecture that
    lives in its repository alone.
    """
    from transformers import CONFIG_MAPPING

    from tianji_helpers.training import internlm2

    internlm2.forbid_code()
    kind = model.config["model_type"]
    if kind == internlm2.MODEL_TYPE:
        internlm2.register()
    if kind not in CONFIG_MAPPING:
        raise CourseError(
            f"{paths.told(model.path)} 是 {kind} 模型，只有运行它自带的 Python 代码才能加载。那可能是任意"
            "程序，课程从不运行。请换成课程目录里的模型（tianji models），或 transformers 自己认识的架构。"
        )


def check_tokenizer(folder: Path) -> None:
    """Raise CourseError if a folder's tokenizer would make texts many times as long: no Ctrl-C ends that."""
    file, parts = folder / "tokenizer.json", _Tokenizer.__struct_fields__
    try:
        read = msgspec.json.decode(file.read_bytes(), type=_Tokenizer) if file.is_file() else _Tokenizer()
        growth = max(_growth(getattr(read, part)) for part in parts)
    except msgspec.DecodeError:  # whoever loads it says what is wrong
        return
    except RecursionError:
        growth = math.inf
    if growth > _MOST_GROWTH:
        many = f"{growth} 个" if growth < _MANY else f"{_MANY} 个以上"
        raise CourseError(
            f"{paths.told(file)} 不加载：它的 {'、'.join(parts)} 里有一项会把一个字变成 {many}，一直占内存，"
            "停不下来。请换成基座模型原来的分词器。"
        )


def _growth(part: Any) -> float:
    """Return how many letters one letter may become in a part of a tokenizer."""
    if isinstance(part, list):
        return math.prod(map(_growth, part))
    if not isinstance(part, dict):
        return 1
    return _own_growth(part) * _growth([*part.values()])


def _own_growth(part: dict) -> int:
    kind, pattern = str(part.get("type")), part.get("pattern")
    if kind == "TemplateProcessing":
        return max(1, len(part.get("single") or ()))  # the text may stand in it several times
    # what a later NFKD would make of it: there are letters that become 18
    content = len(unicodedata.normalize("NFKD", str(part.get("content", part.get("prepend", "")))))
    # a pattern that nothing fits, too, puts it between letters; another takes their place
    beside = "prepend" in part or (
        "content" in part and isinstance(pattern, dict) and not pattern.get("String")
    )
    return max(_GROWTH.get(kind, 1), content + beside)


def _open(folder: str | Path, what: str, name: str, hints: dict[str, str]) -> tuple[Path, dict]:
    """Return a folder, and what the file says by which it is known. hints: by what lies there instead."""
    folder = paths.resolve(folder)
    if not folder.is_dir():
        state = "是一个文件，不是文件夹" if folder.exists() else "不存在"
        raise CourseError(f"{what}文件夹 {paths.told(folder)} {state}。请检查路径。")
    if not (folder / name).is_file():
        hint = next(hint for other, hint in hints.items() if (folder / other).exists())
        raise CourseError(f"{paths.told(folder)} 不是{what}文件夹（没有 {name}）。{hint}")
    return folder, _json_object(folder / name)


def _json_object(file: Path) -> dict:
    value = records.read_json(file)
    if not isinstance(value, dict):
        raise CourseError(f"{paths.told(file)} 应当是一个 JSON 对象，却是 {type(value).__name__}。")
    return value


def _check_attention(config: dict, shown: str) -> None:
    """Refuse an attention that transformers would fetch as compiled code (``owner/kernel``)."""
    for key, value in config.items():
        if "attn_implementation" in key:
            parts = value.values() if isinstance(value, dict) else [value]
            if any(part not in _ATTENTIONS for part in parts):
                raise CourseError(
                    f"{shown}/config.json 里的 {key} 是 {value!r}，不加载：它可能要从网上取程序来运行。"
                    f"请删去这一项，或改成 {'、'.join(filter(None, _ATTENTIONS))} 之一。"
                )
        elif isinstance(value, dict):  # of a part of the model
            _check_attention(value, shown)


def _weight_files(folder: Path) -> tuple[list[Path], set[str]]:
    """Return a model's safetensors files, and the tensors that its index promises."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS], set()
    if not (folder / INDEX).is_file():
        _refuse_pickle(folder)
        raise CourseError(f"{paths.told(folder)} 里没有权重（{WEIGHTS} 或 {INDEX}）。请重新下载或重新合并。")
    where = _json_object(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CourseError(f"{paths.told(folder)}/{INDEX} 里没有 weight_map，请重新下载这个文件。")
    names = sorted({str(name) for name in where.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise CourseError(f"{paths.told(folder)}/{INDEX} 指向文件夹以外的文件 {outside[0]}，不加载。")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CourseError(
            f"{paths.told(folder)} 缺少 {len(missing)} 个分片（共 {len(names)} 个）："
            f"{'、'.join(missing[:3])}。请重新下载或重新合并。"
        )
    return [folder / name for name in names], set(where)


def _refuse_pickle(folder: Path) -> None:
    pickles = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pth", ".pt", ".pkl"))
    if pickles:
        raise CourseError(
            f"{paths.told(folder)} 里只有 pickle 格式的权重 {pickles[0]}。这种文件一加载就能运行任意程序，"
            "所以不加载。请向提供者要 safetensors 格式的，或换一个来源。"
        )


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a safetensors file; its header tells whether the file is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size if file.exists() else 0
        raise CourseError(
            f"{paths.told(file)}（{size} 字节）不完整或已损坏：{error}。请重新下载或重新生成。"
        ) from error


def _check_settings(config: dict, shown: str) -> None:
    try:  # what is empty sets nothing
        msgspec.convert({k: v for k, v in config.items() if v not in (None, False, {}, [], "")}, _Lora)
    except msgspec.ValidationError as error:
        raise CourseError(
            f"{shown}/adapter_config.json 不加载（{str(error)[:120]}）：课程训练的适配器不会这样设置，"
            "它会让 PEFT 去读别的文件、复制网络层或一直算下去。"
        ) from error


def _check_ranks(adapter: AdapterFolder) -> None:
    ranks = {adapter.config["r"], *(adapter.config.get("rank_pattern") or {}).values()}
    for name, shape in adapter.shapes.items():
        rank = shape[0] if name.endswith(".lora_A.weight") else shape[-1]
        if name.endswith((".lora_A.weight", ".lora_B.weight")) and rank not in ranks:
            raise CourseError(
                f"适配器 {paths.told(adapter.path)} 的秩对不上：adapter_config.json 写的是 "
                f"r={adapter.config.get('r')}，权重 {name} 的秩却是 {rank}。两个文件多半来自不同的训练，"
                "请重新转换。"
            )


def _check_base(adapter: AdapterFolder, base: ModelFolder) -> None:
    trained_on = Path(str(adapter.config.get("base_model_name_or_path") or "别的模型")).name

    def refuse(reason: str) -> CourseError:
        return CourseError(
            f"适配器 {paths.told(adapter.path)} 装不到模型 {paths.told(base.path)} 上：{reason}。"
            f"它是从 {trained_on} 训练出来的，请换成那个基座模型。"
        )

    known = models.recorded(base.path)
    if "base_model" in known and trained_on != base.path.name:
        raise refuse("这个模型已经合并过一次适配器")
    if trained_on in models.CATALOGUE and known.get("name", trained_on) != trained_on:
        raise refuse(f"这个模型是 {known['name']}")
    for name, shape in adapter.shapes.items():
        module, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            continue
        weight = base.shapes.get(f"{module}.weight")
        if weight is None:
            if module == "lm_head" and base.config.get("tie_word_embeddings", True):
                continue  # the embedding is its weight; the file holds it once
            raise refuse(f"模型里没有 {module} 这一层")
        rows, columns = weight[::-1] if adapter.config.get("fan_in_fan_out") else weight
        if kind == "A.weight" and shape[1] != columns:
            raise refuse(f"{module} 的输入是 {columns}，适配器要 {shape[1]}")
        if kind == "B.weight" and shape[0] != rows:
            raise refuse(f"{module} 的输出是 {rows}，适配器要 {shape[0]}")
