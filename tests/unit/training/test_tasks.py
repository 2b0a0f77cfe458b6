"""The training stage as notebooks call it, on a tiny model under the embedded one's name."""

import random
import shutil
from types import SimpleNamespace

import nbformat
import pytest

from tianji_helpers import formats, paths, records, wishes
from tianji_helpers.dataset import rebuild
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, evaluation, launch, models, progress, tasks


def test_device_follows_the_catalogue_and_is_checked():
    assert tasks.choose_device("auto", "gemma-3-270m") == "cpu"
    with pytest.raises(CourseError, match="device 是 gpu，只能是 auto、cpu 或 cuda"):
        tasks.choose_device("gpu", "gemma-3-270m")


def test_gpu_model_without_a_gpu_is_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CourseError, match="internlm2-chat-7b 要在 GPU 上训练"):
        tasks.choose_device("auto", "internlm2-chat-7b")
    with pytest.raises(CourseError, match="或把参数 device 改成 auto"):
        tasks.choose_device("cuda", "gemma-3-270m")


def test_tasks_keep_apart(tmp_path):
    folders = {tasks.task_dir(task, tmp_path) for task in configs.TASKS}
    parts = (tasks.train_file, tasks.validation_file, tasks.test_file)
    files = {read(task, tmp_path) for task in configs.TASKS for read in parts}
    assert len(folders) == 4 and len(files) == 12
    for read in (tasks.task_dir, *parts):
        with pytest.raises(CourseError, match="没有叫 wishs 的任务。你是想用 wishes 吗"):
            read("wishs", tmp_path)


@pytest.fixture
def tiny_catalogue(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    folder = models.find(models.EMBEDDED).folder
    shutil.copytree(tiny_dir, folder)
    records.write_provenance(folder, stage="prepare-model", parameters={"name": models.EMBEDDED})


def test_later_lesson_trains_what_is_missing_once(tiny_catalogue, tmp_path):
    matrix = wishes.load()
    turns = [
        {"system": matrix.system, "input": matrix.request(*pair), "output": f"祝{''.join(pair)}！"}
        for pair in matrix.pairs()[:140]  # 35 batches, two epochs
    ]
    with pytest.raises(CourseError, match=r"训练数据 .*不存在"):
        tasks.ensure_trained(tmp_path)
    records.write_conversations(tasks.train_file("wishes", tmp_path), turns)
    lines = []
    config, work_dir = tasks.ensure_trained(tmp_path, report=lines.append)
    chosen = launch.choose_checkpoint(work_dir)
    assert chosen.path.name == "iter_70.pth" and "最后一个" in chosen.reason and lines
    assert str(tmp_path) in config.read_text(encoding="utf-8")  # outside the project: not relative
    provenance = records.read_json(records.provenance_path(work_dir))
    assert provenance["counts"] == {"iterations": 70}
    assert list(provenance["inputs"]) == [paths.show(tasks.train_file("wishes", tmp_path))]
    again = []
    assert tasks.ensure_trained(tmp_path, report=again.append) == (config, work_dir) and not again


def test_a_config_of_ones_own_keeps_its_data_and_its_model(tiny_catalogue, rows_file, tmp_path):
    data = shutil.copy(rows_file, tmp_path / "mine.json")
    mine = configs.write_config("configs/wishes_gemma3_270m_cpu.py", tmp_path / "my.py", data_path=data)
    shutil.copy(rows_file, tasks.train_file("wishes", tmp_path))
    run = tasks.make_config("wishes", output_dir=tmp_path, config=mine, max_rows=8)
    assert tasks.data_file(run) == data
    plain = tasks.make_config("wishes", output_dir=tmp_path)
    assert tasks.data_file(plain) == tasks.train_file("wishes", tmp_path)
    other = configs.write_config(mine, tmp_path / "other.py", model_dir="models/other")
    with pytest.raises(CourseError, match=r"训练的是模型 .*other，参数 base_model 却是 gemma-3-270m"):
        tasks.make_config("wishes", output_dir=tmp_path, config=other)


@pytest.mark.slow
def test_lesson_5_with_a_config_of_ones_own_goes_on_in_a_fresh_folder(
    tiny_catalogue, rows_file, tmp_path, capsys
):
    data = shutil.copy(rows_file, tmp_path / "mine.json")
    mine = configs.write_config("configs/wishes_gemma3_270m_cpu.py", tmp_path / "my.py", data_path=data)
    (lesson,) = paths.NOTEBOOKS.glob("05_*.ipynb")
    cells = [cell.source for cell in nbformat.read(lesson, as_version=4).cells if cell.cell_type == "code"]

    def run(*words):
        for word in words:
            (cell,) = (cell for cell in cells if word in cell)
            exec(cell, names)

    names = {}
    run("max_epochs = 0.0")
    names |= {"output_dir": str(tmp_path / "run"), "config": str(mine), "task": "self_cognition"}
    run("parameters.checked", "matrices,", "rebuild.ensure_ruozhiba", "train_path = ")
    said = capsys.readouterr().out
    assert "训练用 my.py 自己的数据；下面的验证集、测试集是任务 self_cognition 的" in said
    assert "训练集 16 条" in said and len(names["exam"]) > 8
    # what is examined is not what was trained on: that it got no better is no failure
    adapter_dir = tmp_path / "adapter"
    adapter_dir.mkdir()
    (adapter_dir / "adapter_model.safetensors").touch()
    result = SimpleNamespace(curve=[{"loss": 2.0}, {"loss": 1.0}])
    names |= {"before": {"loss": 1.0}, "after": {"loss": 2.0}, "result": result, "adapter_dir": adapter_dir}
    run("metrics = {")
    assert capsys.readouterr().out == "检查通过：适配器已写出\n"
    names["config"] = ""
    with pytest.raises(AssertionError, match="测试损失没有下降"):
        run("metrics = {")


@pytest.mark.parametrize("task", configs.TASKS)
def test_training_looks_at_the_validation_part_never_at_the_test(tiny_catalogue, tmp_path, task):
    validation = tasks.validation_file(task, tmp_path)
    for part in (tasks.train_file(task, tmp_path), validation, tasks.test_file(task, tmp_path)):
        records.write_conversations(part, [{"input": "你好", "output": "你好呀"}])
    path = tasks.make_config(task, output_dir=tmp_path)
    cfg = configs.load_config(path)
    assert cfg.validation_path == cfg.val_dataloader.dataset.dataset.data_files.train == str(validation)
    assert tasks.test_file(task, tmp_path).name not in path.read_text(encoding="utf-8")


def test_own_rows_train_and_their_system_prompt_goes_with_the_model(tiny_catalogue, tmp_path):
    clauses = (
        "先和面",
        "再醒发",
        "水要开",
        "火要稳",
        "油要热",
        "盐少许",
        "葱切碎",
        "盖上盖",
        "等一刻",
        "趁热吃",
    )
    dice = random.Random(0)
    prompt = "\n你是一名厨师，说话简短。"

    def talk(number: int) -> list[dict]:
        said = [f"第{number}道：{'，'.join(dice.sample(clauses, 6))}。" for _ in range(2)]
        turns = [
            {"input": f"第{number}道菜怎么做？", "output": said[0]},
            {"input": "还有呢", "output": said[1]},
        ]
        return [{"system": prompt, **turns[0]}, *turns[1 : 1 + number % 2]]

    data = tmp_path / "own.jsonl"
    formats.write_rows(data, [formats.from_turns(talk(number), "openai") for number in range(60)])
    rebuild.ensure_own(data, tmp_path, report=lambda line: None)
    lines = []
    config, work_dir = tasks.ensure_trained(tmp_path, "own", report=lines.append)
    assert any("own_train.json：" in line and "都不超过上限 512" in line for line in lines)
    cfg = configs.load_config(config)
    assert cfg.max_epochs == 3 and configs.find_chat_hook(cfg).system == prompt
    asked = {turn["input"] for turn in evaluation.read_turns(tasks.validation_file("own", tmp_path))}
    assert asked & set(configs.find_chat_hook(cfg).evaluation_inputs)
    assert len(progress.read_validation(work_dir)) >= 3
    adapter = launch.pth_to_hf(config, work_dir, tmp_path / "adapter", about={"task": "own"})
    assert models.recorded(adapter)["system"] == prompt
    assert tasks.kind("own", tmp_path) == "other" and tasks.kind("ruozhiba", tmp_path) == "ruozhiba"

    test = evaluation.read_turns(tasks.test_file("own", tmp_path))
    assert any("history" in turn for turn in test)
    measured = evaluation.measure(
        models.locate(models.EMBEDDED), adapter, test, "internlm2_chat", max_new_tokens=4
    )
    assert measured["loss"] > 0 and len(measured["rows"]) == len(test)

    again = []
    assert tasks.ensure_trained(tmp_path, "own", report=again.append) == (config, work_dir) and not again
    formats.write_rows(data, [formats.from_turns(talk(number), "openai") for number in range(30)])
    rebuild.ensure_own(data, tmp_path, report=lambda line: None)
    assert tasks._is_stale(tmp_path)
