"""A model that sees, tiny: both stages through XTuner, the folder that comes of them, and a control."""

import copy
import io
import shutil
from typing import NamedTuple

import pytest
import tiny_models
import torch
from mmengine.config import ConfigDict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import cards, eyes, material, measure, pictures, rows, tower
from tianji_helpers.training import configs, inference, launch, models, planning, xtuner_compat
from tianji_helpers.training.fast import operations
from tianji_toolbox import cli
from tianji_toolbox.shipping import terminal

pytestmark = pytest.mark.slow

SCENES = ("生日", "春节", "中秋节", "发财")
TINY = {
    "blocks": [[3, 2, 1, 16, 1], [3, 2, 2, 32, 1], [3, 2, 2, 48, 1]],
    "stem": 16,
    "image_size": 64,
    "grid": 2,
}


@pytest.fixture(scope="module")
def tower_dir(tmp_path_factory):
    """A random tower: enough to tell four cards apart."""
    folder = tmp_path_factory.mktemp("tower") / "tower"
    torch.manual_seed(0)
    shown = [cards.draw(scene, seed=number) for scene in SCENES for number in range(20, 24)]
    pixels = pictures.to_pixels(shown, 64, [0.5] * 3, [0.5] * 3)
    tower.untrained(tower.LiteConfig(**TINY), pixels).save_pretrained(folder)
    pixels = {"crop_size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    records.write_json(folder / "preprocessor_config.json", pixels)
    return folder


@pytest.fixture(scope="module")
def folder(tower_dir, tmp_path_factory):
    """Cards of four scenes, their features, and rows of both stages."""
    folder = tmp_path_factory.mktemp("cards")
    drawn = []
    for scene in SCENES:
        for number in range(8):
            image = f"{scene}_{number}.png"
            cards.draw(scene, "平涂", seed=number).save(folder / image)
            drawn.append({"image": image, "scene": scene, "part": "train" if number < 6 else "held_out"})
    records.write_json(folder / "cards.json", drawn)
    trained = [one for one in drawn if one["part"] == "train"]
    records.write_json(folder / "captions.json", material.captions(trained))
    turns = [{"input": f"祝姐姐{scene}", "output": f"祝姐姐{scene}快乐！"} for scene in SCENES]
    records.write_json(folder / "wishes.json", material.with_cards(turns, trained, repeats=4))
    look(tower_dir, folder, folder / "features.safetensors")
    return folder


def look(tower_dir, folder, target, layer=-1):
    images = [one["image"] for one in records.read_json(folder / "cards.json")]
    loaded = tower.load(tower_dir)
    return rows.compute_features(loaded, tower_dir, folder, images, target, select_layer=layer, report=str)


class Kind(NamedTuple):
    """What a model that sees is made of; config: of both stages, without their names."""

    config: str
    model_dir: object
    tower_dir: object
    features: object


@pytest.fixture(scope="module", params=["own", "guide"])
def kind(request, folder, tower_dir, tiny_dir, internlm2_dir, tmp_path_factory):
    """The lesson's parts, and the original guide's: InternLM2 behind CLIP, by its own GPU configs."""
    if request.param == "own":
        return Kind("see_gemma3_270m_cpu", tiny_dir, tower_dir, folder / "features.safetensors")
    clip = tiny_models.save_clip(tmp_path_factory.mktemp("clip") / "clip")
    models._keep_tower(clip)
    features = look(clip, folder, clip.with_name("features.safetensors"), layer=-2)
    return Kind("see_internlm2_chat_1_8b", internlm2_dir, clip, features)


def settings(features, tower_dir, **more):
    return {
        "train_dataloader.dataset.features": str(features),
        "model.visual_encoder.pretrained_model_name_or_path": str(tower_dir),
        "dtype": "float32",
        **more,
    }


@pytest.fixture(scope="module")
def stages(folder, kind, tmp_path_factory):
    """Both stages through XTuner; returns the folders that they leave, converted, and the second's result."""
    out = tmp_path_factory.mktemp("stages")
    made = {}
    for stage, file in {"pretrain": "captions.json", "finetune": "wishes.json"}.items():
        more = {"model_dir": kind.model_dir, "data_path": folder / file, "max_iters": 8, "every_n_iters": 8}
        options = settings(kind.features, kind.tower_dir, **more)
        options["env_cfg.dist_cfg.backend"] = "gloo"
        if stage == "pretrain":
            options["model.llm.device_map"] = "cpu"
        if stage == "finetune":
            options["model.projector_dir"] = str(made["pretrain"] / "projector")
        config = out / f"{stage}.py"
        cfg = configs.load_config(f"configs/{kind.config}_{stage}.py", options)
        cfg.dump(str(config))
        made["result"] = launch.train(config, out / stage, device="cpu", report=str)
        made[stage] = eyes.convert(config, made["result"].checkpoint, out / f"{stage}_converted")
    return made


def build(folder, tiny_dir, tower_dir, **more):
    llm = ConfigDict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=str(tiny_dir),
        torch_dtype=torch.float32,
    )
    seen = ConfigDict(type=tower.load, pretrained_model_name_or_path=str(tower_dir))
    torch.manual_seed(0)
    options = {"freeze_llm": True, "freeze_visual_encoder": True, "visual_select_layer": -1} | more
    model = xtuner_compat.LLaVAModel(llm=llm, visual_encoder=seen, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.llm.model.layers:  # a new one hardly hands anything on from token to token
            for part in layer.parameters():
                if part.dim() == 2:
                    part.normal_(std=0.2)
    return model


@pytest.fixture(scope="module")
def dataset(folder, tokenizer):
    return seen_rows(folder, tokenizer, "captions.json")


def seen_rows(folder, tokenizer, file):
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.utils import PROMPT_TEMPLATE

    return rows.SeenRows(
        folder / "features.safetensors",
        dataset=rows.load_llava({"train": folder / file}, system=wishes.SYSTEM),
        tokenizer=tokenizer,
        max_length=256,
        template_map_fn=template_map_fn_factory(PROMPT_TEMPLATE.internlm2_chat),
        pack_to_max_length=False,
        map_num_proc=None,
    )


def loss_of(model, dataset, order):
    return model(rows.join_seen([dataset[index] for index in order])["data"])["loss"]


def test_the_fast_way_has_xtuners_own_loss_and_gradients(folder, dataset, tiny_dir, tower_dir):
    """XTuner runs the tower on pixels, pads, and lets the model compute its loss."""
    from PIL import Image
    from xtuner.dataset.collate_fns import default_collate_fn

    order = [0, 7, 13, 20]
    ours = build(folder, tiny_dir, tower_dir, fused=True).train()
    theirs = build(folder, tiny_dir, tower_dir).train()
    theirs.projector.load_state_dict(ours.projector.state_dict())
    loss = loss_of(ours, dataset, order)
    loss.backward()
    plain = []
    for index in order:
        row = dict(dataset.rows[index])
        image = Image.open(folder / row["image"])
        row["pixel_values"] = pictures.to_pixels([image], 64, [0.5] * 3, [0.5] * 3)[0]
        plain.append({name: row[name] for name in ("input_ids", "labels", "pixel_values")})
    expected = super(xtuner_compat._CourseLoss, theirs)
    batch = default_collate_fn(plain)["data"]
    with torch.no_grad():
        seen = theirs.visual_encoder(batch.pop("pixel_values")).hidden_states[-1][:, 1:]
    from xtuner.model.utils import prepare_inputs_labels_for_multimodal

    batch["pixel_values"] = theirs.projector(seen)
    batch = prepare_inputs_labels_for_multimodal(llm=theirs.llm, **batch)
    other = expected.compute_loss(batch)["loss"]
    other.backward()
    # features are kept in float16
    assert loss.item() == pytest.approx(other.item(), rel=2e-3)
    for one, two in zip(ours.projector.parameters(), theirs.projector.parameters(), strict=True):
        assert (one.grad - two.grad).norm() < 2e-2 * two.grad.norm()


def test_pictures_are_no_shared_prefix(folder, dataset, tiny_dir, tower_dir):
    """All places of pictures have one id; what comes there is each sample's own."""
    model = build(folder, tiny_dir, tower_dir, fused=True).train()
    alone = [loss_of(model, dataset, [index]).item() for index in (0, 7, 13, 20)]
    together = loss_of(model, dataset, [0, 7, 13, 20])
    assert model.answer_loss.packing.prefix is not None  # the system prompt is
    counts = [sum(label >= 0 for label in dataset[index]["labels"]) for index in (0, 7, 13, 20)]
    expected = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together.item() == pytest.approx(expected, rel=1e-4)


def test_a_new_projector_speaks_as_loud_as_the_text(folder, tiny_dir, tower_dir):
    model = build(folder, tiny_dir, tower_dir)
    words = model.llm.get_input_embeddings()(torch.arange(5, 3000, 7)).norm(dim=1).mean()
    said = model.projector(torch.randn(64, 48)).norm(dim=1).mean()
    assert said.item() == pytest.approx(words.item(), rel=0.1)
    assert {name for name, part in model.named_parameters() if part.requires_grad} == {
        f"projector.model.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_leaves_its_input_alone(dtype):
    both = torch.randn(3, 8, dtype=dtype)
    before = both.clone()
    gate, up = before.float().chunk(2, -1)
    out = operations.GatedGelu.apply(both)
    assert torch.equal(both, before)
    expected = torch.nn.functional.gelu(gate, approximate="tanh") * up
    assert torch.allclose(out.float(), expected, atol=1e-5 if dtype is torch.float32 else 2e-2)


def test_both_stages_leave_what_the_next_one_needs(stages, merged):
    first, second = stages["pretrain"], stages["finetune"]
    assert (first / "projector" / "model.safetensors").is_file() and not (first / "llm_adapter").exists()
    assert (second / "llm_adapter" / "adapter_model.safetensors").is_file()
    assert not list(first.rglob("projector/*.py")) and not list(second.rglob("projector/*.py"))
    assert models.recorded(second)["system"] == models.recorded(merged)["system"] == wishes.SYSTEM


def logits(model, tokenizer, sight, image):
    chat = eyes.ask(material.QUESTION, image, wishes.SYSTEM)
    with torch.inference_mode():
        return model(**sight.encode(model, tokenizer, [chat])).logits[0, -1].float()


def as_trained(result):
    """The model of a training, with the weights of its checkpoint as XTuner left them; nothing quantized."""
    from xtuner.registry import BUILDER

    cfg = configs.load_config(result.config)
    cfg.model.llm.pop("quantization_config")
    cfg.model.llm.torch_dtype = cfg.model.visual_encoder.torch_dtype = torch.float32
    model = BUILDER.build(cfg.model)
    found = torch.load(result.checkpoint, weights_only=False)["state_dict"]
    assert not model.load_state_dict(found, strict=False).unexpected_keys
    return model.eval()


@pytest.fixture(scope="module")
def merged(stages, kind, tmp_path_factory):
    """The folder of a model that sees."""
    folder = tmp_path_factory.mktemp("sees") / "merged"
    return eyes.finish(kind.model_dir, stages["finetune"], kind.tower_dir, folder)


def test_a_chat_in_a_terminal_takes_a_picture(merged, tmp_path, capsys):
    cards.draw("生日", seed=1).save(tmp_path / "card.png")
    sink = io.StringIO()
    talk = {"source": io.StringIO("给姐姐写一句祝福\n"), "sink": sink, "max_new_tokens": 5, "system": ""}
    terminal.repl(merged, image=tmp_path / "card.png", **talk)
    model, tokenizer = inference.load(merged)
    chat = eyes.ask("给姐姐写一句祝福", pictures.open_picture(tmp_path / "card.png"))
    (said,) = eyes.answer_all(model, tokenizer, eyes.Eyes.of(merged), [chat], max_new_tokens=5)
    assert f"模型：{said.text}" in sink.getvalue().translate({ord("\n"): None}) and said.text
    twice = ["--image", str(tmp_path / "card.png")] * 2
    assert cli.main(["chat", str(merged), *twice]) == 1 and "只看一张" in capsys.readouterr().err
    (tmp_path / "card.png").write_text("a text")
    assert cli.main(["chat", str(merged), "--image", str(tmp_path / "card.png")]) == 1


def test_scores_are_the_same_trained_converted_and_merged(stages, merged, kind, tmp_path):
    image = cards.draw("生日", seed=1)
    sight = eyes.Eyes.load(stages["finetune"] / "projector", kind.tower_dir)
    model, tokenizer = inference.load(kind.model_dir, stages["finetune"] / "llm_adapter", dtype="float32")
    beside = logits(model, tokenizer, sight, image)
    trained = as_trained(stages["result"])
    before = eyes.Eyes(sight.tower, kind.tower_dir, trained.projector, sight.select_layer)
    assert torch.allclose(logits(trained.llm, tokenizer, before, image), beside, atol=1e-4)
    plain, _ = inference.load(kind.model_dir, dtype="float32")
    assert (logits(plain, tokenizer, sight, image) - beside).norm() > 0.05 * beside.norm()
    exact = launch.merge(
        kind.model_dir, stages["finetune"] / "llm_adapter", tmp_path / "exact", dtype="float32"
    )
    model, tokenizer = inference.load(exact, dtype="float32")
    assert torch.allclose(logits(model, tokenizer, sight, image), beside, atol=1e-4)
    model, tokenizer = inference.load(merged, dtype="float32")
    together = logits(model, tokenizer, eyes.Eyes.of(merged), image)
    assert (beside - together).norm() < 0.03 * beside.norm()  # merged weights are bfloat16
    said = eyes.answer_all(
        model, tokenizer, sight, [eyes.ask("给姐姐写一句祝福", image, wishes.SYSTEM)] * 3, max_new_tokens=5
    )
    assert len({one.text for one in said}) == 1
    streamed = "".join(
        inference.stream(
            model,
            tokenizer,
            eyes.ask("给姐姐写一句祝福", image, wishes.SYSTEM),
            max_new_tokens=5,
            encode=sight.encode,
        )
    )
    assert streamed.strip() == said[0].text


def test_a_chat_has_exactly_one_picture_and_a_tower_that_fits(stages, kind, tmp_path):
    model, tokenizer = inference.load(kind.model_dir)
    sight = eyes.Eyes.load(stages["pretrain"] / "projector", kind.tower_dir)
    image = cards.draw("生日")
    chat = eyes.ask("给姐姐写一句祝福", image)
    with pytest.raises(CourseError, match="有 0 张图片"):
        sight.encode(model, tokenizer, [inference.messages("给姐姐写一句祝福")])
    with pytest.raises(CourseError, match="有 2 张图片"):
        sight.encode(model, tokenizer, [[*chat, {"role": "assistant", "content": "好"}, *chat]])
    with pytest.raises(CourseError, match="<image>"):
        sight.encode(model, tokenizer, [eyes.ask("<image> 是什么", image)])
    other = {**TINY, "blocks": [*TINY["blocks"][:-1], [3, 2, 2, 40, 1]]}
    tower.LiteTower(tower.LiteConfig(**other)).save_pretrained(tmp_path / "other")
    with pytest.raises(CourseError, match="每个词元 40 个数，投影层要 48 个"):
        eyes.Eyes.load(stages["pretrain"] / "projector", tmp_path / "other")
    model.set_input_embeddings(torch.nn.Embedding(99, 32))
    with pytest.raises(CourseError, match=r"有 64 个数，这个语言模型的有 32 个.*别的语言模型"):
        sight.encode(model, tokenizer, [chat])
    cut = shutil.copytree(stages["pretrain"] / "projector", tmp_path / "cut")
    for data in ((cut / "model.safetensors").read_bytes()[:500], b""):
        (cut / "model.safetensors").write_bytes(data)
        with pytest.raises(CourseError, match="不是完整的投影层"):
            eyes.Eyes.load(cut, kind.tower_dir)
    (tmp_path / "other" / "model.safetensors").write_bytes(data)
    with pytest.raises(CourseError, match=r"权重不完整.*重新准备"):
        tower.load(tmp_path / "other")
    with pytest.raises(CourseError, match=r"没有投影层.*第 7 课"):
        eyes.Eyes.of(kind.model_dir)


def test_an_examination_has_its_controls_and_wishes_their_score(merged, folder, base_dir):
    from PIL import Image

    drawn = [one for one in records.read_json(folder / "cards.json") if one["part"] == "held_out"]
    sight = eyes.Eyes.of(merged)
    shown = {one["image"]: Image.open(folder / one["image"]) for one in drawn} | {"blank": measure.blank()}
    seen = dict(zip(shown, sight.look(list(shown.values())), strict=True))
    found = measure.examine(*inference.load(merged), sight, material.questions(drawn), seen)
    assert [line["control"] for line in found] == ["", *measure.CONTROLS]
    assert all(len(line["rows"]) == len(drawn) and line["wish"]["value"] <= 1 for line in found)
    (one, *_) = found[0]["rows"]
    said = {"scene": "生日", "recipient": "姐姐", "how": "正常", "stopped": True}
    good = measure.score([one | said | {"wished": "姐姐，祝你生日快乐，天天开心！"}])
    bad = measure.score([one | said | {"wished": "姐姐，春节快乐，恭喜发财！"}])
    assert good["faultless"]["value"] == 1 and good["quality"]["value"] > 2 / 3
    assert bad["faultless"]["value"] == 0 and bad["fault_wrong_scene"]["value"] == 1


def test_features_of_other_pictures_are_refused(folder, tokenizer, tmp_path):
    records.write_json(tmp_path / "rows.json", [rows.row("1", "elsewhere.png", "这是什么？", "生日")])
    with pytest.raises(CourseError, match=r"没有图片 elsewhere\.png"):
        seen_rows(folder, tokenizer, tmp_path / "rows.json")


def test_a_short_training_looks_and_its_shuffled_control_fails(
    folder, dataset, tiny_dir, tower_dir, tokenizer
):
    """All of a tiny model learns captions; shown another card, it names that one."""
    model = build(folder, tiny_dir, tower_dir, fused=True, freeze_llm=False).train()
    optimizer = torch.optim.AdamW(
        [
            {"params": model.projector.parameters(), "lr": 1e-3},
            {"params": model.llm.parameters(), "lr": 3e-3},
        ]
    )
    for step in range(60):
        torch.manual_seed(step)
        loss = loss_of(model, dataset, torch.randperm(len(dataset))[:12].tolist())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.llm.config.use_cache = True
    drawn = [one | {"request": material.QUESTION} for one in records.read_json(folder / "cards.json")]
    sight = eyes.Eyes(tower.load(tower_dir), tower_dir, copy.deepcopy(model.projector), -1)
    from PIL import Image

    images = [Image.open(folder / one["image"]) for one in drawn]
    seen = dict(zip((one["image"] for one in drawn), sight.look(images), strict=True))
    found = {}
    for control in ("", "shuffled"):
        shown = measure.pictures_for(drawn, seen, control)
        said = measure.answers(
            model.llm, tokenizer, sight, [one["request"] for one in drawn], shown, max_new_tokens=6
        )
        found[control] = sum(text == one["scene"] for text, one in zip(said, drawn, strict=True)) / len(drawn)
    assert found[""] > 0.7 > 0.15 > found["shuffled"]


def test_parts_that_do_not_fit_are_named_before_a_training(
    folder, stages, kind, tower_dir, tiny_dir, tmp_path
):
    def refused(match, stage="finetune", **changes):
        options = {"model_dir": kind.model_dir, "data_path": folder / "captions.json"}
        options = settings(kind.features, kind.tower_dir, **options)
        options |= {"env_cfg.dist_cfg.backend": "gloo", "model.llm.device_map": "cpu"} | changes
        with pytest.raises(CourseError, match=match):
            launch.train(
                f"configs/{kind.config}_{stage}.py", tmp_path / "work", cfg_options=options, report=str
            )

    projector = stages["pretrain"] / "projector"
    refused("没有投影层.*第一阶段", **{"model.projector_dir": str(tmp_path / "none")})
    narrow = {**TINY, "blocks": [*TINY["blocks"][:-1], [3, 2, 2, 40, 1]]}
    tower.LiteTower(tower.LiteConfig(**narrow)).save_pretrained(tmp_path / "narrow")
    other = {"model.visual_encoder.pretrained_model_name_or_path": str(tmp_path / "narrow")}
    refused("每个词元 48 个数，视觉塔是 40 个.*重新算", "pretrain", **other)
    elsewhere = {"train_dataloader.dataset.features": str(tmp_path / "none.safetensors")}
    refused("没有视觉特征", "pretrain", **elsewhere)
    wide = records.read_json(projector / "config.json") | {"llm_hidden_size": 32}
    records.write_json(tmp_path / "wide" / "config.json", wide)
    refused("从 48 个数到 32 个.*语言模型是 64", **{"model.projector_dir": str(tmp_path / "wide")})
    refused("没有视觉塔", **{"model.visual_encoder.pretrained_model_name_or_path": str(tmp_path)})


def test_a_training_of_a_card_that_is_missing_ends_before_it_starts(folder, tower_dir, tiny_dir, tmp_path):
    options = settings(
        folder / "features.safetensors", tower_dir, model_dir=tiny_dir, data_path=tmp_path / "none.json"
    )
    with pytest.raises(CourseError, match=r"none\.json 不存在"):
        launch.train(
            "configs/see_gemma3_270m_cpu_pretrain.py", tmp_path / "work", cfg_options=options, report=str
        )


def test_files_that_are_cut_empty_or_of_something_else_are_named_before_a_training(
    folder, tower_dir, tiny_dir, tmp_path
):
    def refused(match, **changes):
        options = {"model_dir": tiny_dir, "data_path": folder / "captions.json", "max_epochs": 1}
        options = settings(folder / "features.safetensors", tower_dir, **options) | changes
        with pytest.raises(CourseError, match=match):
            planning.plan_training("configs/see_gemma3_270m_cpu_pretrain.py", options)

    features = tmp_path / "features.safetensors"
    kept = {"train_dataloader.dataset.features": str(features)}
    features.write_bytes((folder / "features.safetensors").read_bytes()[:500])
    refused("features.safetensors（500 字节）不完整或已损坏", **kept)
    save_file({}, features)
    refused("一张图片也没有.*重新算", **kept)
    save_file({"a.png": torch.ones(4, 48), "b.png": torch.tensor(1.0)}, features)
    refused("视觉塔是 48 个.*重新算", **kept)
    refused("不是视觉塔", **{"model.visual_encoder.pretrained_model_name_or_path": str(tiny_dir)})
    projector = {"model.projector_dir": str(tmp_path / "projector")}
    for said in ({}, [], {"visual_hidden_size": 48}):
        records.write_json(tmp_path / "projector" / "config.json", said)
        refused("没有投影层.*第一阶段", **projector)
    records.write_json(
        tmp_path / "projector" / "config.json", {"visual_hidden_size": 48, "llm_hidden_size": 64}
    )
    refused("model.safetensors（0 字节）不完整或已损坏", **projector)
    (tmp_path / "projector" / "model.safetensors").write_bytes(b"cut")
    refused("model.safetensors（3 字节）不完整或已损坏", **projector)


def test_rows_without_features_are_named_before_a_training(folder, tower_dir, tiny_dir, tmp_path):
    options = settings(None, tower_dir, model_dir=tiny_dir, data_path=folder / "captions.json")
    options.pop("train_dataloader.dataset.features")
    cfg = configs.load_config("configs/see_gemma3_270m_cpu_pretrain.py", options)
    del cfg.train_dataloader.dataset["features"]
    cfg.dump(str(tmp_path / "config.py"))
    with pytest.raises(CourseError, match=r"train_dataloader\.dataset 里却没有 features.*compute_features"):
        planning.plan_training(tmp_path / "config.py")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"image": "elsewhere.png"}, r"features\.safetensors 里没有图片 elsewhere\.png.*重新算"),
        ({"conversations": [{"from": "human", "value": "<image>\n这是什么？"}]}, "一问一答"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named_before_a_training(
    change, fault, folder, tower_dir, tiny_dir, tmp_path
):
    one, *others = records.read_json(folder / "captions.json")
    records.write_json(file := tmp_path / "rows.json", [*others, one | change])
    options = settings(folder / "features.safetensors", tower_dir, model_dir=tiny_dir, data_path=file)
    with pytest.raises(CourseError, match=rf"rows\.json 第 {len(others) + 1} 条：.*{fault}") as caught:
        planning.plan_training("configs/see_gemma3_270m_cpu_pretrain.py", options)
    assert "convert" not in str(caught.value)  # which knows no pictures
