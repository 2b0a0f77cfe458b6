"""Who answers in a chat: on a CPU llama.cpp, which is quicker there, everywhere else transformers.

llama.cpp reads a file of its own. It is made once, beside the model folder, with the weights as they are, and
is named by what is in the folder: when that changes, a new file takes its place.
"""

import glob
import hashlib
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from tianji_helpers import llama, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference, inspection
from tianji_toolbox.shipping import export

MAX_CONTEXT = 8192  # tokens; memory for all of them is taken at once, 0.2 GB for a model of 1.5B
_EXACT = {"float32": "f32", "float16": "f16"}  # what holds a weight as it is; else bf16 does
_DIGITS = 12  # of the file's name


def load(
    model_dir: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    *,
    device: str = "cpu",
    report: Callable[[str], None] = print,
):
    """Return (model, tokenizer) for ``inference.stream``, as ``inference.load`` does.

    On a CPU, without adapters, the model is a ``llama.Model``; where that cannot be (an architecture that
    llama.cpp does not know, no room for its file) one of transformers, after a line that says why.
    """
    folder = inspection.inspect_model(model_dir)
    if device != "cpu" or adapters or find_spec("xllamacpp") is None:  # a demo platform has none
        return inference.load(model_dir, adapters, device=device)
    tokenizer = inference.load_tokenizer(folder)
    try:
        window = folder.config.get("max_position_embeddings") or MAX_CONTEXT
        stops = export.stop_ids(folder.path, tokenizer)
        file = gguf_file(folder, report)
        return llama.Model(file, context=min(window, MAX_CONTEXT), stops=stops), tokenizer
    except CourseError as error:
        report(f"llama.cpp 用不上，改由 transformers 回答，会慢一些。原因：{str(error).splitlines()[0]}")
        return inference.load(model_dir, device=device)


def gguf_file(model: inspection.ModelFolder, report: Callable[[str], None] = print) -> Path:
    """Return the GGUF file of a model folder; it is made if it is not there, and older ones go.

    Raises CourseError if the converter cannot, or the disk has no room.
    """
    digest = hashlib.sha256()
    for file in sorted(model.path.iterdir()):
        if file.suffix in inspection.SUFFIXES and file.is_file():
            digest.update(f"{file.name} {records.sha256(file)}\n".encode())
    name = f"{model.path.name}.{digest.hexdigest()[:_DIGITS]}.gguf"
    target = model.path.with_name(name)
    if target.is_file():
        return target
    needed = sum(file.stat().st_size for file in model.weights) * 1.05
    if (free := shutil.disk_usage(target.parent).free) < needed:
        raise CourseError(f"磁盘空间不够：{target} 要 {needed / 1e9:.1f} GB，只剩 {free / 1e9:.1f} GB。")
    report("第一次和这个模型聊，先为 llama.cpp 转换一份（只做一次，不到一分钟）…")
    stored = model.config.get("dtype") or model.config.get("torch_dtype")
    with records.scratch(target) as part:
        export.convert(model.path, part / name, _EXACT.get(stored, "bf16"), part)
        records.sync(part / name)
        (part / name).replace(target)
    with records.writing(target):
        for old in target.parent.glob(f"{glob.escape(model.path.name)}.{'[0-9a-f]' * _DIGITS}.gguf"):
            if old != target:
                old.unlink(missing_ok=True)
    return target
