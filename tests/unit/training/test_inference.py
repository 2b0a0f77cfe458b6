"""Answers in batch and in pieces: equal, ending by themselves, without template tokens."""

import pytest

from tianji_helpers.errors import CourseError
from tianji_helpers.training import engine, inference


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
        assert ended == inference.Answer("", stopped=True)
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


def test_folders_that_are_no_model_are_named(tmp_path, tiny_dir):
    with pytest.raises(CourseError, match=r"没有 config\.json"):
        inference.load(tmp_path)
    with pytest.raises(CourseError, match=r"没有 adapter_config\.json"):
        inference.load(tiny_dir, tmp_path)


def test_truncated_weights_are_an_error(tiny_dir, tmp_path):
    import shutil

    broken = shutil.copytree(tiny_dir, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CourseError, match="加载失败"):
        inference.load(broken)


def test_adapter_of_another_model_is_an_error(trained, base_dir, tmp_path):
    result, _ = trained
    adapter = engine.pth_to_hf(result.config, result.checkpoint, tmp_path / "adapter")
    with pytest.raises(CourseError, match="装不到这个模型上"):
        inference.load(base_dir, adapter)
