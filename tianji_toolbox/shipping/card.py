"""Write a model's card from what the course recorded while it was made.

A card that people can trust is generated: the base model and its licence come from the catalogue, the
data and the parameters from the provenance files of the stages, the figures from the evaluation of
notebook 05, the sample answers from the comparison of notebook 06. What was not recorded is said to be
unknown, and no figure is typed by hand.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import figures, models
from tianji_toolbox.pages import render

TASKS = {"wishes": "送祝福", "self_cognition": "自我认知", "ruozhiba": "弱智吧问答", "own": "自己的数据"}
SAMPLES = 6  # answers shown
OPENXLAB = "https://code.openxlab.org.cn"  # models are git repositories there
_KINDS = {"adapter": "adapter_config.json", "gguf": "*.gguf", "merged": "config.json"}  # the first holds
_SETTINGS = {  # of the training's config, and how the card calls them
    "max_epochs": "训练轮数",
    "max_iters": "最多步数",
    "lr": "学习率",
    "lora_r": "LoRA 秩 r",
    "lora_alpha": "lora_alpha",
    "batch_size": "批大小",
    "accumulative_counts": "梯度累积",
    "max_length": "最大长度（词元）",
    "load_in_4bit": "4 位基座（QLoRA）",
    "seed": "随机种子",
}


@dataclass(frozen=True)
class Facts:
    """What is known about a model to be published.

    kind: ``merged``, ``gguf`` or ``adapter``. base: the catalogue's entry. parameters: of the folder's
    provenance. training: the provenance of the training; metrics: of notebook 05; comparison: rows of
    ``request``, ``before``, ``after``; data: the provenance of the training rows; teachers: who wrote
    the wishes. Empty where nothing was recorded.
    """

    kind: str
    base: models.BaseModel
    task: str
    parameters: dict
    training: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    comparison: list = field(default_factory=list)
    data: dict = field(default_factory=dict)
    teachers: tuple[str, ...] = ()


def gather(folder: str | Path, run: str | Path = "") -> Facts:
    """Collect what the course knows about a merged model, an adapter or a GGUF export.

    run: the folder of the run that made it; empty means the run that the folder lies in.
    Raises CourseError for another kind of folder, or one whose base model nobody recorded (a card
    without the base's licence must not be published).
    """
    folder = paths.resolve(folder)
    kind = next((kind for kind, file in _KINDS.items() if any(folder.glob(file))), "")
    if not kind:
        raise CourseError(
            f"{paths.told(folder)} 里没有能发布的模型。请给合并后的模型、适配器，或 tianji export 的文件夹。"
        )
    parameters = models.recorded(folder)
    name = parameters.get("base_model")
    if not name and kind == "adapter":
        name = Path(
            str(records.read_json(folder / "adapter_config.json").get("base_model_name_or_path"))
        ).name
    if name not in models.CATALOGUE:
        raise CourseError(
            f"不知道 {paths.told(folder)} 是从哪个基座训练来的（旁边没有 {folder.name}.provenance.json，"
            f"或里面的 base_model 是 {name}），没法写明许可证，所以不发布。请用第 6 课合并出来的文件夹。"
        )
    stages = (parent.parent for parent in folder.parents if parent.name in paths.STAGES)
    run_folder = paths.resolve(run) if run else next(stages, None)
    task = parameters.get("task") or next((t for t in TASKS if t in folder.parts), "")
    facts = Facts(kind, models.CATALOGUE[name], task, parameters)
    if run_folder is None or task not in TASKS:
        return facts
    trained = run_folder / "05_training" / task
    training = records.provenance(trained / "work")
    train_file = next(iter(training.get("inputs") or {}), "")
    metrics = _read(trained / "metrics.json")
    if metrics and (metrics.get("task"), metrics.get("base_model")) != (task, name):
        raise CourseError(
            f"{paths.told(trained / 'metrics.json')} 评测的是 {metrics.get('base_model')}"
            f"（{metrics.get('task')}），要发布的却是 {name}（{task}）。请用 --run 指定训练它的那次运行。"
        )
    return replace(
        facts,
        training=training,
        metrics=metrics,
        comparison=_read(run_folder / "06_merge_chat" / task / "comparison.json") or [],
        data=records.provenance(run_folder / train_file) if train_file else {},
        teachers=_teachers(run_folder) if task == "wishes" else (),
    )


def _teachers(run: Path) -> tuple[str, ...]:
    """Return the models that wrote the raw wishes of a run."""
    rounds = [records.read_json(file) for file in (run / "01_synthesis").glob("wishes_*.provenance.json")]
    return tuple(sorted({record["parameters"]["model"] for record in rounds}))


def _read(file: Path):
    return records.read_json(file) if file.is_file() else {}


def write(facts: Facts, repo: str, platform: str) -> str:
    """Return the card as Markdown with the YAML head that hubs read. repo: ``owner/name``."""
    made = (facts.training.get("parameters") or {}).get("settings") or {}
    settings = [(title, made[name]) for name, title in _SETTINGS.items() if name in made]
    steps, versions = (
        (facts.training.get("counts") or {}).get("iterations"),
        facts.training.get("versions") or {},
    )
    settings += [("步数", steps)] if steps else []
    settings += [(name, versions[name]) for name in ("xtuner", "transformers", "peft") if versions.get(name)]
    before, after = (facts.metrics.get(when, {}).get("figures", {}) for when in ("before", "after"))
    return render(
        "shipping/card.md",
        cell=_cell,
        facts=facts,
        base=facts.base,
        hub=hub_name(facts.base, platform),
        licence=licence_name(facts.base),
        repo=repo,
        platform=platform,
        task=TASKS.get(facts.task, facts.task or "未记录的任务"),
        quantized=facts.parameters.get("quantize"),
        settings=settings,
        compared=[(figures.TITLES[name], pair) for name, pair in figures.compare(before, after).items()],
        samples=SAMPLES,
        embedded=models.EMBEDDED,
        openxlab=OPENXLAB,
    )


def licence_name(base: models.BaseModel) -> str:
    """Return the hubs' short name of a base model's licence."""
    if base.licence.startswith("Gemma"):
        return "gemma"
    return "apache-2.0" if base.licence == "Apache-2.0" else "other"


def hub_name(base: models.BaseModel, platform: str) -> str:
    """Return what a base model is called on a platform; OpenXLab's cards link to Hugging Face."""
    return base.modelscope if platform == "modelscope" else base.huggingface


def _cell(text: str, limit: int = 80) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= limit else text[:limit] + " …"
