"""Answers in batch and in pieces: equal, ending by themselves, without template tokens."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tianji_helpers.errors import CourseError
from tianji_helpers.training import chat_templates, inference


@pytest.fixture(scope="module")
def tiny(tiny_dir):
    return inference.load(tiny_dir)


def chats(*requests):
    return [inference.messages(request, "你是大师") for request in requests]


def test_batch_and_stream_say_the_same(tiny):
    batch = inference.answer_all(*tiny, chats("祝姐姐生日", "祝外公重阳节快乐，身体健康"), max_new_tokens=12)
    for chat, answer in zip(chats("祝姐姐生日", "祝外公重阳节快乐，身体健康"), batch, strict=True):
        assert "".join(inference.stream(*tiny, chat, max_new_tokens=12)).strip() == answer.text


def test_end_token_stops_and_is_not_shown(tiny):
    model, tokenizer = tiny
    (free,) = inference.answer_all(model, tokenizer, chats("祝姐姐生日"), max_new_tokens=8)
    assert not free.stopped and free.text

    def prefer_the_end(module, arguments, output):
        output.logits[..., tokenizer.eos_token_id] += 1e4

    hook = model.register_forward_hook(prefer_the_end)
    try:
        (ended,) = inference.answer_all(model, tokenizer, chats("祝姐姐生日"), max_new_tokens=8)
        assert ended == inference.Completion("", stopped=True)
        assert list(inference.stream(model, tokenizer, chats("祝姐姐生日")[0], max_new_tokens=8)) == []
    finally:
        hook.remove()


def test_every_stop_of_the_models_author_counts(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(model.generation_config, "eos_token_id", [tokenizer.eos_token_id, 7])
    assert inference.stop_ids(model, tokenizer) == sorted([tokenizer.eos_token_id, 7])
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    assert inference.stop_ids(model, tokenizer) == [tokenizer.eos_token_id]


def test_leaving_the_stream_stops_the_generation(tiny):
    import threading

    before = threading.active_count()
    stream = inference.stream(*tiny, chats("祝姐姐生日")[0], max_new_tokens=10_000)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_failure_inside_the_generation_reaches_the_reader(tiny):
    with pytest.raises(CourseError, match="生成失败"):
        list(inference.stream(*tiny, chats("祝姐姐生日")[0], max_new_tokens=-1))


def test_a_folder_is_inspected_before_it_is_loaded(tmp_path, tiny_dir):
    with pytest.raises(CourseError, match=r"没有 config\.json"):
        inference.load(tmp_path)
    with pytest.raises(CourseError, match=r"没有 adapter_config\.json"):
        inference.load(tiny_dir, tmp_path)


def test_a_model_without_a_chat_template_is_named(tiny_dir, tmp_path):
    bare = shutil.copytree(tiny_dir, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(CourseError, match="没有对话模板"):
        inference.load(bare)


@pytest.mark.slow
def test_adapters_are_switched_on_one_base(tiny_dir, adapter_dir, tmp_path):
    other = shutil.copytree(adapter_dir, tmp_path / "other")
    tensors = load_file(other / "adapter_model.safetensors")
    save_file({name: tensor * -3 for name, tensor in tensors.items()}, other / "adapter_model.safetensors")
    model, tokenizer = inference.load(tiny_dir, {"甲": adapter_dir, "乙": other}, dtype="float32")
    ids = torch.tensor([tokenizer.encode("祝姐姐生日")])

    def scores(loaded):
        with torch.inference_mode():
            return loaded(ids).logits

    alone = {
        "甲": scores(inference.load(tiny_dir, adapter_dir, dtype="float32")[0]),
        "乙": scores(inference.load(tiny_dir, other, dtype="float32")[0]),
        "": scores(inference.load(tiny_dir, dtype="float32")[0]),
    }
    weights = model.get_base_model().model.embed_tokens.weight.data_ptr()
    torch.testing.assert_close(scores(model), alone["甲"])
    for name in ("乙", "", "甲", "", "乙"):
        inference.switch(model, name)
        torch.testing.assert_close(scores(model), alone[name])
    assert not torch.allclose(alone["甲"], alone["乙"]) and not torch.allclose(alone["甲"], alone[""])
    assert model.get_base_model().model.embed_tokens.weight.data_ptr() == weights


def test_a_frozen_head_multiplies_a_batch_once(tiny_dir, adapter_dir):
    model, tokenizer = inference.load(tiny_dir, adapter_dir, dtype="bfloat16")
    batch = tokenizer(["祝姐姐", "祝妈妈"], return_tensors="pt").to(model.device)
    head, products = model.get_output_embeddings(), []

    def note(module, inputs, output):
        with torch.profiler.profile() as found, torch.inference_mode():
            torch.nn.functional.linear(inputs[0], module.weight)
        products.append({event.name for event in found.events()} & {"aten::bmm", "aten::mm"})

    head.register_forward_hook(note)
    with torch.inference_mode():
        model(**batch, logits_to_keep=1)
    assert products == [{"aten::mm"}]


def test_switching_to_an_adapter_that_was_not_loaded_lists_those_there_are(tiny_dir, adapter_dir):
    model, _ = inference.load(tiny_dir, {"甲": adapter_dir})
    with pytest.raises(CourseError, match="没有叫 乙 的适配器。已加载：甲"):
        inference.switch(model, "乙")
    bare, _ = inference.load(tiny_dir)
    inference.switch(bare)
    with pytest.raises(CourseError, match="没有加载适配器"):
        inference.switch(bare, "甲")


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "64"},
        {"num_attention_heads": None},
        {"num_attention_heads": 0},
        {"rope_scaling": {"rope_type": "evil"}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    ],
)
def test_a_config_that_makes_no_sense_is_an_error_in_words(tiny_dir, tmp_path, settings):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(CourseError, match="加载失败"):
        inference.load(folder)


HANGING = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "long text": "{{ 'a' * 10**10 }}",
    "large number": "{{ 9**(9**9) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "many times": "{% for a in range(9999) %}{{ messages[0].content * 100 }}{% endfor %}",
    "doubling": "{% set n = namespace(x='ab') %}{% for m in messages %}{% for c in m.content %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{% endfor %}{{ n.x }}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HANGING)
def test_a_template_that_does_not_end_is_refused(tiny_dir, tmp_path, name):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(HANGING[name])
    with pytest.raises(CourseError, match="对话模板（chat_template）用不了"):
        inference.load_tokenizer(folder)


@pytest.mark.parametrize("when", ["'奶奶' in messages[-1].content", "messages|length == 5"])
def test_a_template_that_loops_at_some_chats_only_is_stopped_there(tiny_dir, tmp_path, when, monkeypatch):
    monkeypatch.setattr(chat_templates, "_PATIENCE", 600)  # what strikes are its five seconds of a processor
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    known = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(
        "{% if " + when + " %}" + HANGING["loops"] + "{% endif %}" + known
    )
    tokenizer = inference.load_tokenizer(folder)
    assert inference.checked_prompts(tokenizer, [chats("祝姐姐生日")[0]]) == [
        "<system>你是大师<user>祝姐姐生日"
    ]
    worse = inference.messages("祝奶奶生日", history=[("一", "二"), ("三", "四")])
    with pytest.raises(CourseError, match="对话模板（chat_template）用不了：算了 5 秒"):
        inference.checked_prompts(tokenizer, [worse])


def test_of_several_templates_the_default_one_is_asked(tiny_dir):
    tokenizer = inference.load_tokenizer(tiny_dir)
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tool_use": HANGING["loops"]}
    assert inference.checked_prompts(tokenizer, chats("祝姐姐")) == ["你是大师"]
    tokenizer.chat_template = {"tool_use": HANGING["loops"]}
    with pytest.raises(CourseError, match="对话模板不接受这样的对话"):
        inference.checked_prompts(tokenizer, chats("祝姐姐"))


def test_what_a_template_refuses_is_said_in_words(tiny_dir, tmp_path):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    for text in ("{{ raise_exception('no system' * 9999) }}", "{{ messages[0].nothing.more }}", "{% for"):
        (folder / "chat_template.jinja").write_text(text)
        tokenizer = inference.load_tokenizer(folder)
        with pytest.raises(CourseError, match="对话模板不接受这样的对话") as refused:
            inference.checked_prompts(tokenizer, chats("祝姐姐生日"))
        assert len(str(refused.value)) < 400


def test_a_processor_without_bf16_instructions_is_not_measured(monkeypatch):
    inference.cpu_dtype.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(time, "perf_counter", None)
    assert inference.cpu_dtype() == "float32"
    inference.cpu_dtype.cache_clear()


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_the_type_that_was_faster_is_taken(faster, monkeypatch):
    inference.cpu_dtype.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    ticks = iter(range(10_000))
    spent = {"float32": 2, "bfloat16": 2} | {faster: 1}
    types = [dtype for dtype in ("float32", "bfloat16") for _ in range(8) for _ in range(2)]

    def clock():
        number = next(ticks)
        return sum(spent[dtype] for dtype in types[: number + 1])

    monkeypatch.setattr(time, "perf_counter", clock)
    assert inference.cpu_dtype() == faster
    inference.cpu_dtype.cache_clear()
