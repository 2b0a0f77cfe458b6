"""The configs in ``configs/`` and what ``write_config`` changes in them."""

import shutil

import pytest

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_helpers.training import arguments, configs, models

FILES = sorted(path.name for path in paths.CONFIGS.glob("*.py") if not path.name.startswith("see_"))


@pytest.mark.parametrize("name", FILES)
def test_config_is_complete_and_keeps_the_originals_lora(name):
    cfg = configs.load_config(paths.CONFIGS / name)
    if "_full" not in name:
        assert (cfg.model.lora.r, cfg.model.lora.lora_alpha) == (64, 16)
        assert cfg.model.llm.quantization_config.bnb_4bit_quant_type == "nf4"
    assert cfg.randomness.seed is not None
    models = {part.pretrained_model_name_or_path for part in configs._model_parts(cfg)}
    assert models == {cfg.pretrained_model_name_or_path}
    assert cfg.train_dataloader.dataset.dataset.data_files.train == cfg.data_path
    assert name.startswith(tuple(configs.TASKS))
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == cosine.begin == pytest.approx(cfg.warmup_ratio * cfg.max_epochs)
    assert cosine.end == cfg.train_cfg.max_epochs == cfg.max_epochs
    templates = {str(cfg.train_dataloader.dataset.template_map_fn.template), str(cfg.prompt_template)}
    assert templates == {str(configs.find_chat_hook(cfg).prompt_template)}
    packed = cfg.train_dataloader.dataset.pack_to_max_length and cfg.model.get("fused", False)
    see_one_another = "_packed" in name  # shown once, so that one sees what it does
    assert cfg.train_dataloader.dataset.use_varlen_attn == (packed and not see_one_another)
    assert packed or not see_one_another


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("size", ["gemma3_270m_cpu", "internlm2_chat_1_8b"])
def test_a_model_that_sees_learns_in_two_stages(size, stage):
    cfg = configs.load_config(paths.CONFIGS / f"see_{size}_{stage}.py")
    assert cfg.model.freeze_llm and cfg.model.freeze_visual_encoder
    models = {part.pretrained_model_name_or_path for part in configs._model_parts(cfg)}
    assert models == {cfg.pretrained_model_name_or_path}
    assert cfg.model.visual_encoder.pretrained_model_name_or_path == cfg.tower_dir
    assert cfg.train_dataloader.dataset.dataset.data_files.train == cfg.data_path
    assert cfg.train_dataloader.dataset.features == cfg.features
    assert ("llm_lora" in cfg.model) == bool(cfg.model.projector_dir) == (stage == "finetune")
    assert ("quantization_config" in cfg.model.llm) == (stage == "finetune")
    if (
        size == "internlm2_chat_1_8b"
    ):  # XTuner's own two configs of this size, where we did not choose otherwise
        assert cfg.model.visual_select_layer == -2
        assert cfg.tower_dir == "models/clip-vit-large-patch14-336"
        assert cfg.optim_wrapper.optimizer.lr == (1e-3 if stage == "pretrain" else 2e-4)


def test_gpu_config_has_the_originals_hyper_parameters():
    cfg = configs.load_config("configs/wishes_internlm2_chat_7b.py")
    assert cfg.optim_wrapper.optimizer.lr == 2e-4
    assert cfg.optim_wrapper.accumulative_counts * cfg.train_dataloader.batch_size == 16
    assert cfg.train_dataloader.dataset.max_length == 2048
    assert cfg.optim_wrapper.clip_grad.max_norm == 1


def test_full_fine_tuning_has_neither_adapter_nor_quantization():
    cfg = configs.load_config("configs/wishes_internlm2_chat_7b_full.py")
    assert "lora" not in cfg.model and "quantization_config" not in cfg.model.llm
    assert cfg.model.recompute_share == 1 and cfg.model.fused
    assert configs.settings(cfg).keys().isdisjoint({"lora_r", "lora_alpha", "load_in_4bit"})


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("wishes", "internlm2-chat-7b"),
        ("wishes", "qwen2.5-7b-instruct"),
        ("wishes", "qwen2.5-0.5b-instruct"),
        ("wishes", "qwen2.5-coder-1.5b-instruct"),
        ("wishes", "qwen3-8b"),
        ("wishes", "qwen3-4b"),
        ("wishes", "qwen3-1.7b"),
        ("wishes", "qwen3-0.6b"),
        ("wishes", "qwen2.5-1.5b-instruct"),
        ("wishes", "internlm2-chat-1_8b"),
        ("self_cognition", "internlm2-chat-1_8b"),
        ("ruozhiba", "internlm2-1_8b"),
    ],
)
def test_config_of_a_model_of_the_catalogue_uses_its_folder_and_template(task, model):
    from xtuner.utils import PROMPT_TEMPLATE

    cfg = configs.load_config(configs.default_config(task, model))
    known = models.find(model)
    assert cfg.pretrained_model_name_or_path == f"models/{model}"
    assert cfg.model.llm.trust_remote_code is cfg.tokenizer.trust_remote_code is False
    assert cfg.prompt_template == PROMPT_TEMPLATE[known.template]


@pytest.mark.parametrize("model", [model for model in models.CATALOGUE.values() if not model.sees])
def test_whatever_the_catalogue_offers_can_be_trained(model):
    configs.default_config("wishes" if model.chats else "ruozhiba", model.name)


def test_settings_reach_every_place_that_depends_on_them(tmp_path):
    path = configs.write_config(
        "configs/wishes_gemma3_270m_cpu.py",
        tmp_path / "run.py",
        model_dir="models/other",
        prompt_template="qwen_chat",
        data_path="rows.json",
        max_epochs=3,
        warmup_ratio=0.1,
        lr=1e-3,
        every_n_iters=7,
        evaluation_inputs=["祝大舅发财"],
        seed=7,
        dtype="float32",
        max_rows=50,
        lora_r=8,
    )
    cfg = configs.load_config(path)
    assert {part.pretrained_model_name_or_path for part in configs._model_parts(cfg)} == {"models/other"}
    assert "models/gemma-3-270m" not in path.read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8").count("PROMPT_TEMPLATE.qwen_chat") == 3
    assert cfg.train_dataloader.dataset.dataset.data_files.train == "rows.json"
    warmup, cosine = cfg.param_scheduler
    assert (warmup.end, cosine.begin, cosine.end) == (pytest.approx(0.3), pytest.approx(0.3), 3)
    assert cfg.train_cfg.max_epochs == 3 and cfg.optim_wrapper.optimizer.lr == 1e-3
    assert configs.find_chat_hook(cfg).every_n_iters == cfg.default_hooks.checkpoint.interval == 7
    assert configs.find_chat_hook(cfg).evaluation_inputs == ["祝大舅发财"]
    assert cfg.randomness.seed == 7
    assert cfg.model.llm.torch_dtype == "torch.float32"
    assert cfg.train_dataloader.dataset.max_dataset_length == 50
    assert (cfg.model.lora.r, cfg.model.lora.lora_alpha) == (8, 16)
    numbers = {"max_epochs": 3, "lr": 1e-3, "seed": 7, "max_rows": 50, "lora_r": 8, "lora_alpha": 16}
    rest = {"batch_size": 4, "accumulative_counts": 1, "max_length": 512, "load_in_4bit": True}
    assert configs.settings(cfg) == numbers | rest


def test_validation_rows_are_read_as_training_rows_are(tmp_path):
    first = configs.write_config(
        "configs/wishes_gemma3_270m_cpu.py", tmp_path / "a.py", validation_path="held.json", every_n_iters=7
    )
    again = configs.write_config(first, tmp_path / "b.py", model_dir="models/other", every_n_iters=9)
    for path, interval in ((first, 7), (again, 9)):
        cfg = configs.load_config(path)
        train, held = cfg.train_dataloader, cfg.val_dataloader
        assert held.dataset.dataset.data_files.train == "held.json" and not held.sampler.shuffle
        assert held.dataset.tokenizer == train.dataset.tokenizer and held.collate_fn == train.collate_fn
        assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == interval
        assert len(cfg.custom_hooks) == 3


def test_unknown_task_model_and_file_are_named(tmp_path):
    with pytest.raises(CourseError, match="没有叫 jokes 的任务。可选：wishes"):
        configs.default_config("jokes", "gemma-3-270m")
    with pytest.raises(CourseError, match=r"wishes_gpt_5\.py。现有：.*wishes_gemma3_270m_cpu\.py"):
        configs.default_config("wishes", "gpt-5")
    with pytest.raises(CourseError, match="找不到配置文件"):
        configs.load_config(tmp_path / "none.py")
    (tmp_path / "broken.py").write_text("model = dict(\n")
    with pytest.raises(CourseError, match="读不进来：SyntaxError"):
        configs.load_config(tmp_path / "broken.py")
    shutil.copy(paths.CONFIGS / "wishes_gemma3_270m_cpu.py", tmp_path / "alone.py")
    with pytest.raises(CourseError, match=r"读不进来：它借用的文件不在旁边：.*连同 _base_ 文件夹"):
        configs.load_config(tmp_path / "alone.py")
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(CourseError, match=r"rows\.csv 不是配置文件.*data_path"):
        configs.load_config(tmp_path / "rows.csv")


CPU = "configs/wishes_gemma3_270m_cpu.py"
DATA = "train_dataloader.dataset.dataset.data_files.train"


def changed(**options):
    cfg = configs.load_config(CPU).copy()
    configs.change(cfg, options.pop("options", options))
    return cfg


@pytest.mark.parametrize("file", sorted(path.name for path in paths.CONFIGS.glob("*.py")))
def test_a_config_for_a_program_says_the_same(file, tmp_path):
    cfg = configs.load_config(paths.CONFIGS / file)
    configs.dump(cfg, tmp_path / "config.py")
    assert configs.load_config(tmp_path / "config.py").to_dict() == cfg.to_dict()


@pytest.mark.parametrize("name", ["data_path", DATA])
def test_a_path_with_a_space_reaches_the_training_and_the_saved_config(name):
    cfg = changed(options={name: "/tmp/my rows.json"})
    assert configs.part(cfg, DATA) == cfg.data_path == "/tmp/my rows.json"
    assert "/tmp/my rows.json" in cfg.pretty_text


@pytest.mark.parametrize("names", [("max_epochs", "warmup_ratio"), ("train_cfg.max_epochs", "warmup_ratio")])
def test_epochs_and_warm_up_reach_the_schedule(names):
    cfg = changed(options=dict(zip(names, (9, 0.9), strict=True)))
    warmup, decay = cfg.param_scheduler
    assert (warmup.end, decay.begin, decay.end) == (pytest.approx(8.1), pytest.approx(8.1), 9)
    assert cfg.train_cfg.max_epochs == cfg.max_epochs == 9 and cfg.warmup_ratio == 0.9


@pytest.mark.parametrize("name", ["max_iters", "train_cfg.max_iters"])
def test_a_number_of_steps_takes_the_place_of_the_epochs(name):
    cfg = changed(options={name: 100, "warmup_ratio": 0.1})
    assert cfg.train_cfg.max_iters == 100 and "max_epochs" not in cfg.train_cfg and "max_epochs" not in cfg
    for scheduler, begin, end in zip(cfg.param_scheduler, (0, 10), (10, 100), strict=True):
        assert (scheduler.begin, scheduler.end, scheduler.by_epoch) == (begin, end, False)
        assert "convert_to_iter_based" not in scheduler
    configs.change(cfg, {"max_epochs": 2})
    assert cfg.train_cfg.max_epochs == 2 and "max_iters" not in cfg.train_cfg
    assert [scheduler.end for scheduler in cfg.param_scheduler] == [pytest.approx(0.2), 2]


def test_other_places_of_a_config_are_changed_by_their_dotted_names():
    options = {
        "model.recompute_share": 1,
        "custom_hooks.1.max_new_tokens": 5,
        "train_dataloader.num_workers": 1,
    }
    options |= {"optim_wrapper.optimizer.eps": 1e-6, "lr": 1, "batch_size": 1}
    options |= {"optim_wrapper.optimizer.weight_decay": 0.1, "optim_wrapper.clip_grad.max_norm": 0.5}
    options |= {"log_level": "DEBUG", "load_from": paths.ROOT / CPU}
    cfg = changed(options=options)
    assert (cfg.optim_wrapper.optimizer.weight_decay, cfg.optim_wrapper.clip_grad.max_norm) == (0.1, 0.5)
    assert cfg.log_level == "DEBUG" and cfg.load_from == str(paths.ROOT / CPU)
    assert cfg.model.recompute_share == 1 and configs.find_chat_hook(cfg).max_new_tokens == 5
    assert cfg.train_dataloader.num_workers == 1 == cfg.train_dataloader.batch_size
    assert cfg.optim_wrapper.optimizer.eps == 1e-6 and cfg.optim_wrapper.optimizer.lr == 1


@pytest.mark.parametrize("name", ["SGD", "torch.optim.SGD"])
def test_a_part_may_be_of_another_type_by_either_name(name):
    assert changed(options={"optim_wrapper.optimizer.type": name}).optim_wrapper.optimizer.type == name


def test_changes_of_the_training_rows_hold_for_the_validation_rows_too():
    options = {"validation_path": "/tmp/v.json", "batch_size": 2, "val_dataloader.num_workers": 1}
    cfg = changed(options={"validation_path": "/tmp/v.json"})
    configs.change(cfg, options)
    assert cfg.val_dataloader.batch_size == 2 and cfg.val_dataloader.num_workers == 1
    assert cfg.train_dataloader.num_workers == 0
    at_once = changed(options=options | {"train_cfg.val_interval": 7})
    assert at_once.val_dataloader == cfg.val_dataloader and at_once.train_cfg.val_interval == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer.padding_side": "left"}, "什么也不会变.*train_dataloader.dataset.tokenizer.padding_side"),
        ({"learning_rate": 1}, "配置里没有它.*名字：.*、lr、"),
        ({"dataset.max_length": 5}, "可以写 max_length"),
        ({"optim_wrapper.optimiser.lr": 1}, "可以写 .*lr"),
        ({"train_dataloader.dataset.pack_to_max_lenght.x": 1}, "什么也不会变"),
        ({"train_dataloader": 5}, "什么也不会变"),
        ({"work_dir": "x"}, "什么也不会变"),
        ({"train_dataloader.batch_size": "abc"}, "batch_size 是 'abc'，应当是正整数"),
        ({"train_dataloader.num_workers": "abc"}, "'abc'，应当和配置里的 0 一样是 int"),
        ({"train_dataloader.num_workers": True}, "一样是 int"),
        ({"custom_hooks.9.x": 1}, "什么也不会变"),
        ({"lr": "2e-4"}, "lr 是 '2e-4'，应当是大于 0 的数"),
        ({"lr": float("nan")}, "应当是大于 0 的数"),
        ({"max_epochs": 1, "max_iters": 5}, "只能写一个"),
        ({"max_epochs": 1, "train_cfg.max_epochs": 2}, "两个不同的值"),
        ({"warmup_ratio": 1.5}, "0 到 1 之间"),
        ({"data_path": None}, "data_path 是 None，应当是路径"),
        ({"seed": 2**32}, "seed 是 4294967296，应当是 0 到 4294967295 之间的整数"),
        ({"prompt_template": "nope"}, "prompt_template 是 'nope'，应当是 XTuner 的一个对话模板"),
        ({f"{DATA.removesuffix('.data_files.train')}.path": "/my.json"}, "什么也不会变.*可以写 data_path"),
        ({f"{DATA.removesuffix('.data_files.train')}.split": "test"}, "什么也不会变"),
        ({"optim_wrapper.optimizer.weight_dacay": 0.1}, r"什么也不会变.*optimizer\.weight_decay"),
        ({"model.lora.typo": 1}, "什么也不会变"),
        ({"train_cfg.val_interval": 5}, "没有验证数据.*可以写 validation_path"),
        ({"param_scheduler.0.end": 5}, "跟着轮数或步数走.*可以写 max_epochs、max_iters、warmup_ratio"),
        ({"custom_hooks.-1.every_n_iters": 5}, "什么也不会变"),
        ({"load_from": "/nothere.pth"}, "那里没有检查点.*--resume"),
        ({"optim_wrapper.accumulative_counts": 1.5}, "一样是 int"),
        ({"default_hooks.checkpoint.intervall": 5}, r"什么也不会变.*checkpoint\.interval"),
        ({"custom_hooks.1.max_new_token": 5}, r"什么也不会变.*custom_hooks\.1\.max_new_tokens"),
        ({"param_scheduler.0.start_facto": 0.1}, r"什么也不会变.*start_factor"),
        ({"param_scheduler.1.convert_to_iter_based": False}, "跟着轮数或步数走"),
        ({"model.fusd": True}, r"什么也不会变.*model\.fused"),
        ({"model.llm.quantization_config.bnb_4bit_quant_typ": "fp4"}, r"什么也不会变.*bnb_4bit_quant_type"),
        ({"model.llm.torch_dtyp": "torch.float32"}, r"什么也不会变.*model\.llm\.torch_dtype"),
        ({"train_cfg.dynamic_interval": 1}, "什么也不会变"),
        ({"optim_wrapper.optimizer.type": "NoSuch"}, "没有这个类或函数.*torch.optim.AdamW"),
        ({"custom_hooks.1.type": "mmengine.hooks"}, "没有这个类或函数"),
        ({"default_hooks.checkpoint.interval": 0}, "interval 是 0，应当是正整数"),
        ({"validation_path": "/v.json", "train_cfg.val_interval": -1}, "val_interval 是 -1，应当是正整数"),
        ({"default_hooks.checkpoint.filename": "x.pth"}, "什么也不会变"),  # the hook names it
    ],
    ids=str,
)
def test_what_would_change_nothing_or_is_of_the_wrong_kind_is_refused_by_name(options, message):
    with pytest.raises(CourseError, match=message):
        changed(options=options)


def test_full_fine_tuning_has_no_rank_to_change(tmp_path):
    with pytest.raises(CourseError, match=r"没有 model\.lora"):
        configs.write_config("configs/wishes_internlm2_chat_7b_full.py", tmp_path / "c.py", lora_r=8)


@pytest.mark.parametrize(
    "names", [("lora_r", "lora_alpha"), ("model.llm_lora.r", "model.llm_lora.lora_alpha")]
)
@pytest.mark.parametrize("size", ["gemma3_270m_cpu", "internlm2_chat_1_8b"])
def test_rank_and_alpha_of_a_model_that_sees_have_the_same_names(size, names):
    options = dict(zip(names, (8, 16.5), strict=True))
    cfg = configs.load_config(f"configs/see_{size}_finetune.py", options)
    assert (cfg.model.llm_lora.r, cfg.model.llm_lora.lora_alpha) == (8, 16.5) and "lora" not in cfg.model
    assert configs.settings(cfg)["lora_r"] == 8
    with pytest.raises(CourseError, match=r"没有 model\.llm_lora。"):
        configs.load_config(f"configs/see_{size}_pretrain.py", options)


def test_an_unknown_setting_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"没有叫 epochs 的设置。.*可选：.*max_epochs"):
        configs.write_config(CPU, tmp_path / "c.py", epochs=3)


def test_what_a_part_hands_on_is_known_or_left_alone():
    options = {
        "custom_hooks.1.priority": 49,
        "default_hooks.checkpoint.priority": "LOW",
        "model.llm.revision": "x",
    }
    options |= {"default_hooks.checkpoint.save_begin": 5, "custom_hooks.1.stop_words": ["。"]}
    options |= {"param_scheduler.1.eta_min_ratio": 0.1, "model.max_position_embeddings": 9}
    options |= {"optim_wrapper.paramwise_cfg": {"norm_decay_mult": 0}, "train_dataloader.pin_memory": True}
    cfg = changed(options=options)
    assert cfg.custom_hooks[1].priority == 49 and cfg.model.llm.revision == "x"
    with pytest.raises(CourseError, match=r"可以写 train_dataloader\.dataset\.max_length"):
        configs.load_config(
            "configs/see_gemma3_270m_cpu_finetune.py", {"train_dataloader.dataset.max_lenght": 9}
        )


class Base:
    def __init__(self, size=1):
        self.size = size


class Reads(Base):
    def __init__(self, *args, **kwargs):
        self.color = kwargs.pop("color", None)
        if "old" in kwargs:
            print(kwargs["old"])
        super().__init__(*args, **kwargs)


class Swallows(Base):
    def __init__(self, shape=1, **kwargs):
        if kwargs:
            print(kwargs.keys())
        super().__init__(2)


class Keeps(Base):
    def __init__(self, **kwargs):
        self.rest = kwargs
        super().__init__()


class Hands(Reads):
    def __init__(self, weight=0, **more):
        super().__init__(**more)


@pytest.mark.parametrize(
    ("made_by", "names"),
    [
        (Base, {"size"}),
        (Reads, {"size", "color", "old"}),
        (Hands, {"size", "color", "old", "weight"}),
        (Swallows, {"shape"}),
        (Keeps, None),
        (type("Made", (), {"__init__": eval("lambda self, **kwargs: None")}), None),
        (lambda **kwargs: kwargs, None),
    ],
)
def test_names_are_known_as_far_as_the_source_tells(made_by, names):
    found = arguments.taken({"type": made_by})
    assert (None if found is None else set(found)) == names
