"""Load a model, perhaps with adapters, and let it answer: a whole batch at once, or token by token."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Empty
from threading import Event, Thread
from typing import Any

from tianji_helpers import llama, paths
from tianji_helpers.errors import CourseError
from tianji_helpers.training import chat_templates, inspection

# transformers 4.57.3 to 4.57.6 takes a tokenizer of more than 100,000 tokens for Mistral's in every folder
# that it wrote itself, and warns of wrong token ids (_patch_mistral_regex in tokenization_utils_base.py).
# Those of our Qwen2 folders are right, and the catalogue has no Mistral.
NOT_MISTRAL = {"fix_mistral_regex": False}
PICTURE = -200  # XTuner's id where a token of a picture comes (IMAGE_TOKEN_INDEX)
# takes the likeliest token each time
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


# of model, tokenizer and chats, what ``generate`` takes
Encode = Callable[[Any, Any, Sequence[list[dict]]], dict]


@dataclass(frozen=True)
class Completion:
    """What a model said: the text without template tokens, and whether it ended by itself."""

    text: str
    stopped: bool


@cache
def cpu_dtype() -> str:
    """Return the type in which this CPU multiplies matrices fastest: ``bfloat16`` or ``float32``.

    Measured, in some hundredths of a second: what a processor says of itself does not do. Sapphire Rapids and
    its successors have AVX512-BF16 at half of their speed in float32, and are fast only where a virtual
    machine lets their AMX through (2 cores without: 141 against 264 GFLOP/s).
    """
    import torch

    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "float32"
    seconds = {}
    for dtype in ("float32", "bfloat16"):
        matrix = torch.ones(512, 512, dtype=getattr(torch, dtype))
        times = []
        for _ in range(8):  # the first ones prepare; the best is least disturbed
            began = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return min(seconds, key=seconds.__getitem__)


def load(
    model_dir: str | Path,
    adapter: str | Path | Mapping[str, str | Path] | None = None,
    *,
    device: str = "cpu",
    dtype: str = "",
):
    """Load a Hugging Face folder, perhaps with adapters on top, and return (model, tokenizer).

    adapter: an adapter folder, or several by name; the first one answers until ``switch`` is called.
    device: ``cpu`` or ``cuda``. dtype: ``bfloat16`` or ``float32``; empty means what suits the
    device. The model is in eval mode. No code of a folder is run. Raises CourseError if a folder is not
    what it should be, before weights are read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = inspection.inspect_model(model_dir)
    if isinstance(adapter, str | Path):
        adapter = {"default": adapter}
    for name in adapter or {}:
        if not name or "." in name:  # it becomes part of the layers' names
            raise CourseError(f"适配器的名字 {name!r} 不能用：不能空着，也不能有点号。")
    adapters = {name: inspection.inspect_adapter(path, folder) for name, path in (adapter or {}).items()}
    tokenizer = load_tokenizer(folder)
    dtype = dtype or (cpu_dtype() if device == "cpu" else "bfloat16")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
        )
    except Exception as error:  # a config of a stranger can make any of transformers' lines fail
        raise CourseError(
            f"模型 {paths.told(folder.path)} 加载失败：{type(error).__name__}: {error}"
        ) from error
    if adapters:
        model = _with_adapters(model, adapters)
    multiply_head_once(model)
    return model.to(device).eval(), tokenizer


def multiply_head_once(model) -> None:
    """Hand the head of a model what it multiplies in one piece.

    Of a prompt only the last token is scored, and PyTorch's linear layer takes such a slice of a batch for a
    product of its own for each row, with a copy of the matrix each, if that is frozen: 8 s instead of 0.03
    and 2.7 GB for 6 rows of the 1.5B model (2.11.0, on a CPU in bfloat16).
    """
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def load_tokenizer(model_dir: str | Path | inspection.ModelFolder):
    """Load the tokenizer of a model folder. Raises CourseError if there is none, or no chat template."""
    from transformers import AutoTokenizer

    folder = model_dir
    if not isinstance(folder, inspection.ModelFolder):
        folder = inspection.inspect_model(folder)
    inspection.check_architecture(folder)
    inspection.check_tokenizer(folder.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, **NOT_MISTRAL)
    except Exception as error:  # it reads many files; tokenizers raises plain Exceptions
        raise CourseError(f"模型 {paths.told(folder.path)} 的分词器加载失败：{error}") from error
    if not tokenizer.chat_template:
        raise CourseError(
            f"模型 {paths.told(folder.path)} 没有对话模板（chat_template），不知道该怎样提问。"
            "请换成对话模型，或把训练时的模板放进它的 chat_template.jinja。"
        )
    try:
        chat_templates.check(tokenizer)
    except CourseError as error:
        raise CourseError(f"模型 {paths.told(folder.path)} 不能用：{error}") from error
    return tokenizer


def _with_adapters(model, adapters: Mapping[str, inspection.AdapterFolder]):
    from peft import PeftModel

    (first, start), *others = adapters.items()
    try:
        model = PeftModel.from_pretrained(model, start.path, adapter_name=first)
        for name, adapter in others:
            model.load_adapter(adapter.path, adapter_name=name)
    except (RuntimeError, ValueError, OSError) as error:
        raise CourseError(
            f"适配器 {'、'.join(adapters)} 装不到这个模型上：{str(error).splitlines()[0]} "
            "请确认它们是从同一个基座模型训练出来的。"
        ) from error
    return model


def switch(model, name: str = "") -> None:
    """Let the adapter called ``name`` answer from now on; empty means the base model alone.

    model: as ``load`` returns it with adapters; nothing is loaded again. Raises CourseError for a
    name that was not loaded, listing those there are.
    """
    known = list(getattr(model, "peft_config", {}))
    if not name:
        if known:
            model.base_model.disable_adapter_layers()
        return
    if name not in known:
        there = f"已加载：{'、'.join(known)}" if known else "这个模型没有加载适配器"
        raise CourseError(f"没有叫 {name} 的适配器。{there}。")
    model.base_model.enable_adapter_layers()
    model.set_adapter(name)


def messages(request: str, system: str = "", history: Sequence[tuple[str, str]] = ()) -> list[dict]:
    """Return a chat in the form that a chat template takes.

    history: earlier (question, answer) pairs.

    >>> messages("祝姐姐生日", "你是大师")
    [{'role': 'system', 'content': '你是大师'}, {'role': 'user', 'content': '祝姐姐生日'}]
    """
    chat = [{"role": "system", "content": system}] if system else []
    for question, answer in history:
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*chat, {"role": "user", "content": request}]


def answer_all(
    model,
    tokenizer,
    chats: Sequence[list[dict]],
    *,
    max_new_tokens: int = 100,
    batch_size: int = 8,
    encode: Encode | None = None,
) -> list[Completion]:
    """Answer every chat, greedily, ``batch_size`` at a time, and return the answers in order.

    chats: lists of messages, as ``messages`` makes them. encode: makes the model's input of them; None: as
    text. An answer has stopped by itself if it ended before ``max_new_tokens``. Raises CourseError for a chat
    that holds template tokens.
    """
    import torch

    stops = stop_ids(model, tokenizer)
    answers: list[Completion | None] = [None] * len(chats)
    # neighbours of similar length need little padding
    order = sorted(range(len(chats)), key=lambda index: sum(len(m["content"]) for m in chats[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _encode(model, tokenizer, [chats[index] for index in chosen], encode)
        try:
            with torch.inference_mode():
                tokens = model.generate(
                    **batch,
                    **GREEDY,
                    max_new_tokens=max_new_tokens,
                    eos_token_id=stops,
                    pad_token_id=tokenizer.pad_token_id,
                )
        except Exception as error:  # a config of a stranger can make any line of it fail
            raise CourseError(f"生成失败：{type(error).__name__}: {error}") from error
        length = batch["input_ids"].shape[1] if "input_ids" in batch else 0  # embeddings don't come back
        for index, row in zip(chosen, tokens[:, length:], strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            answers[index] = Completion(text, stopped=any(token in stops for token in row.tolist()))
    return answers


def answer_nll(model, rows: Sequence[Mapping], *, batch_size: int) -> list[tuple[float, int]]:
    """Return, for each row, the negative log-likelihood of its answer in nats, and its answer tokens.

    rows: ``input_ids`` and ``labels``, -100 where no answer stands; one without an answer has (0.0, 0).
    batch_size: rows computed at a time.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    found = [(0.0, 0)] * len(rows)
    # neighbours of similar length need little padding
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    order = [index for index in order if any(label >= 0 for label in rows[index]["labels"])]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        # the padding is on the right: what comes before never sees it
        ids, labels = (
            pad_sequence([torch.tensor(rows[index][key]) for index in chosen], True, padding).to(model.device)
            for key, padding in (("input_ids", 0), ("labels", -100))
        )
        targets = labels[:, 1:]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[:, :-1]
            answered = targets != -100
            nll = torch.zeros(targets.shape, device=model.device)
            nll[answered] = torch.nn.functional.cross_entropy(
                logits[answered].float(), targets[answered], reduction="none"
            )
        for row, index in enumerate(chosen):
            found[index] = nll[row].sum().item(), int(answered[row].sum())
    return found


def stop_ids(model, tokenizer) -> list[int]:
    """Return the ids that end an answer: the tokenizer's, and those the model's author lists."""
    listed = model.generation_config.eos_token_id
    listed = listed if isinstance(listed, list) else [listed]
    return sorted({tokenizer.eos_token_id, *listed} - {None})


def fit(model, tokenizer, chat: list[dict], max_new_tokens: int) -> list[dict]:
    """Return ``chat`` without its oldest turns, as many as the model's window asks for.

    The system prompt and the last request stay; a question goes together with its answer.
    """
    window = getattr(model.config, "max_position_embeddings", None) or math.inf
    opening = chat[: chat[0]["role"] == "system"]
    turns = chat[len(opening) :]

    def length() -> int:
        prompts = chat_templates.render(tokenizer, [[*opening, *turns]])
        return len(tokenizer(prompts, add_special_tokens=False).input_ids[0])

    while len(turns) > 1 and max_new_tokens + length() > window:
        turns = turns[2:]
    return [*opening, *turns]


def splice(embedding, ids, pictures):
    """Return the embeddings of a batch, (batch, length, width), with pictures in the places of ``PICTURE``.

    embedding: the model's. ids: (batch, length). pictures: (pictures, tokens, width), in the order of the
    ids. Raises ValueError unless there are as many places as tokens of pictures.
    """
    places = ids == PICTURE
    if (count := int(places.sum())) != pictures.shape[:2].numel():
        raise ValueError(f"{count} places for {tuple(pictures.shape[:2])} tokens of pictures")
    embeds = embedding(ids.clamp(min=0))
    return embeds.masked_scatter(places[..., None], pictures.to(embeds.dtype))


def checked_prompts(tokenizer, chats: Sequence[list[dict]]) -> list[str]:
    """Return chats as texts, with the template's tokens; raises CourseError for a forged one."""
    # XTuner's chat lets whoever types <|im_end|> forge a turn of another speaker
    for said in (message["content"] for chat in chats for message in chat):
        if forged := [token for token in tokenizer.all_special_tokens if token in said]:
            raise CourseError(f"这句话里有模型的控制词元 {forged[0]}，它会冒充对话的结构。请把它删掉。")
    return chat_templates.render(tokenizer, chats)


def _encode(model, tokenizer, chats: Sequence[list[dict]], encode: Encode | None) -> dict:
    if encode:
        return encode(model, tokenizer, chats)
    prompts = checked_prompts(tokenizer, chats)
    batch = tokenizer(
        prompts, add_special_tokens=False, return_tensors="pt", padding=True, padding_side="left"
    )
    return batch.to(model.device)


def stream(
    model,
    tokenizer,
    chat: list[dict],
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    top_p: float = 0.9,
    timeout: float = 120.0,
    encode: Encode | None = None,
) -> Iterator[str]:
    """Answer one chat beside this thread, and yield the text in pieces as they come.

    model: as ``load`` returns it, or a ``llama.Model``, which takes no ``encode``. temperature: 0 takes the
    likeliest token each time; above, tokens are drawn. timeout: seconds to wait for a piece. encode: as
    ``answer_all`` takes it. Leaving the iterator early stops the generation. Raises CourseError for a chat
    that holds template tokens, if the generation fails, or if nothing comes for ``timeout`` seconds.
    """
    if isinstance(model, llama.Model):
        ids = tokenizer(checked_prompts(tokenizer, [chat]), add_special_tokens=False).input_ids[0]
        drawn = {"samplers": ["temperature", "top_p"], "temperature": temperature, "top_p": top_p}
        chosen = drawn if temperature > 0 else {"samplers": ["top_k"], "top_k": 1}
        stops = stop_ids(model, tokenizer)
        yield from model.stream(ids, stops, timeout, n_predict=max_new_tokens, **chosen)
        return

    import torch
    from transformers import StoppingCriteriaList, TextIteratorStreamer

    cancelled, failures = Event(), []

    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    prompt = _encode(model, tokenizer, [chat], encode)
    pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=timeout, skip_special_tokens=True)

    def generate() -> None:
        try:
            with torch.inference_mode():
                model.generate(
                    **prompt,
                    **(drawn if temperature > 0 else GREEDY),
                    max_new_tokens=max_new_tokens,
                    eos_token_id=stop_ids(model, tokenizer),
                    pad_token_id=tokenizer.pad_token_id,
                    streamer=pieces,
                    stopping_criteria=StoppingCriteriaList([lambda *_, **__: cancelled.is_set()]),
                )
        except Exception as error:  # handed to the reader
            failures.append(error)
            pieces.end()

    thread = Thread(target=generate, daemon=True)
    thread.start()
    try:
        yield from filter(None, pieces)
    except Empty as error:
        raise CourseError(
            f"模型 {timeout:.0f} 秒没有说出新的内容，已停止。机器可能太忙，请再试一次。"
        ) from error
    finally:
        cancelled.set()
        thread.join(timeout)  # a thread inside torch must not outlive the interpreter
    if failures:
        raise CourseError(f"生成失败：{type(failures[0]).__name__}: {failures[0]}") from failures[0]
