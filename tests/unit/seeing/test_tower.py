"""The tower: a folder of its own that loads again, stays still while others train, and is no other model."""

import pytest
import torch

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import cards, rows, tower

TINY = {"blocks": [[3, 1, 1, 8, 1], [5, 2, 2, 16, 2]], "stem": 8, "image_size": 32, "grid": 2}


def save_tiny(folder, **settings):
    torch.manual_seed(0)
    model = tower.LiteTower(tower.LiteConfig(**TINY | settings))
    for module in model.modules():  # as if it had seen something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    model.save_pretrained(folder)
    pixels = {"crop_size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    records.write_json(folder / "preprocessor_config.json", pixels)
    return folder


def test_it_is_the_same_after_loading_and_its_first_token_is_the_mean(tmp_path):
    loaded = tower.load(save_tiny(tmp_path / "tiny"))
    images = [cards.draw("生日"), cards.draw("春节")]
    tokens = loaded(torch.rand(2, 3, 32, 32)).hidden_states[-1]
    assert tokens.shape == (2, 5, 16)
    assert torch.allclose(tokens[:, 0], tokens[:, 1:].mean(1), atol=1e-6)
    seen = rows.look(loaded, tmp_path / "tiny", images)
    assert seen.shape == (2, 4, 16)
    assert torch.allclose(seen[:1], rows.look(loaded, tmp_path / "tiny", images[:1]), atol=1e-5)


def test_training_beside_it_leaves_it_as_it_is(tmp_path):
    loaded = tower.load(save_tiny(tmp_path / "tiny"))
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    loaded.train()
    loaded(torch.rand(4, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())


def test_a_folder_that_is_no_tower_is_refused(tmp_path):
    with pytest.raises(CourseError, match=r"没有视觉塔.*make vision"):
        tower.load(tmp_path)
    records.write_json(tmp_path / "config.json", {"model_type": "dinov2"})
    with pytest.raises(CourseError, match="model_type 是 dinov2，不是视觉塔"):
        tower.load(tmp_path)
    for said in ([], {"model_type": ["clip"]}, {"hidden_size": 8}):
        records.write_json(tmp_path / "config.json", said)
        with pytest.raises(CourseError, match="不是视觉塔"):
            tower.load(tmp_path)
    for half in ({}, [], {"hidden_size": "8"}):
        records.write_json(tmp_path / "config.json", {"model_type": "clip", "vision_config": half})
        with pytest.raises(CourseError, match=r"没有 hidden_size.*make vision"):
            tower.load(tmp_path)


def test_a_tower_that_does_not_say_how_it_takes_pictures_is_named(tmp_path):
    loaded = tower.load(save_tiny(tmp_path / "tiny"))
    for said in ({}, [], {"crop_size": {"width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}):
        records.write_json(tmp_path / "tiny" / "preprocessor_config.json", said)
        with pytest.raises(CourseError, match=r"preprocessor_config\.json 里没有.*重新准备"):
            rows.look(loaded, tmp_path / "tiny", [cards.draw("生日")])


def test_weights_of_another_shape_are_named(tmp_path):
    save_tiny(tmp_path / "tiny")
    said = records.read_json(tmp_path / "tiny" / "config.json")
    records.write_json(tmp_path / "tiny" / "config.json", said | {"stem": 4})
    with pytest.raises(CourseError, match=r"权重不完整.*重新准备"):
        tower.load(tmp_path / "tiny")


def test_weights_that_are_others_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "weights.pth").write_bytes(b"something")
    with pytest.raises(CourseError, match=r"sha256 是 .*不用它"):
        tower.prepare(tmp_path / "weights.pth")
    assert not tower.folder().exists()
