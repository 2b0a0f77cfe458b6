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

TASKS = {"wishes": "送祝福", "self_cognition": "自我认知", "ruozhiba": "弱智吧问答", "own": "自己的数据"}
SAMPLES = 6  # answers shown
OPENXLAB = "https://code.openxlab.org.cn"  # models are git repositories there
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
    if (folder / "adapter_config.json").is_file():
        kind = "adapter"
    elif any(folder.glob("*.gguf")):
        kind = "gguf"
    elif (folder / "config.json").is_file():
        kind = "merged"
    else:
        raise CourseError(
            f"{paths.show(folder)} 里没有能发布的模型。请给合并后的模型、适配器，或 tianji export 的文件夹。"
        )
    parameters = models.recorded(folder)
    name = parameters.get("base_model")
    if not name and kind == "adapter":
        name = Path(
            str(records.read_json(folder / "adapter_config.json").get("base_model_name_or_path"))
        ).name
    if name not in models.CATALOGUE:
        raise CourseError(
            f"不知道 {paths.show(folder)} 是从哪个基座训练来的（旁边没有 {folder.name}.provenance.json，"
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
            f"{paths.show(trained / 'metrics.json')} 评测的是 {metrics.get('base_model')}"
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
    return (
        "\n\n".join(part for part in (_head(facts, platform), *_sections(facts, repo, platform)) if part)
        + "\n"
    )


def licence_name(base: models.BaseModel) -> str:
    """Return the hubs' short name of a base model's licence."""
    if base.licence.startswith("Gemma"):
        return "gemma"
    return "apache-2.0" if base.licence == "Apache-2.0" else "other"


def _head(facts: Facts, platform: str) -> str:
    base = getattr(facts.base, "modelscope" if platform == "modelscope" else "huggingface")
    library = {"merged": "transformers", "gguf": "gguf", "adapter": "peft"}[facts.kind]
    lines = [
        "---",
        f"license: {licence_name(facts.base)}",
        *([f"license_name: {facts.base.licence!r}"] if licence_name(facts.base) == "other" else []),
        "language:\n- zh",
        f"base_model: {base}",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags:\n- qlora\n- xtuner",
        "---",
    ]
    return "\n".join(lines)


def _sections(facts: Facts, repo: str, platform: str) -> list[str]:
    name, task = repo.split("/")[-1], TASKS.get(facts.task, facts.task or "未记录的任务")
    what = {"merged": "合并后的模型", "gguf": "GGUF 文件", "adapter": "LoRA 适配器"}[facts.kind]
    quantized = facts.parameters.get("quantize")
    base = facts.base
    return [
        f"# {name}",
        f"这是一门课的学生作品：用 QLoRA（XTuner）在 {base.huggingface} 上微调出来的{task}模型。"
        f"这里放的是{what}{f'（{quantized}）' if quantized else ''}。"
        "卡片由课程的 `tianji publish` 从训练记录生成。",
        "## 基座和许可证",
        f"- 基座：[{base.huggingface}](https://huggingface.co/{base.huggingface})（{base.parameters} 参数）\n"
        f"- 许可证：{base.licence}。使用和再分发都要遵守它；条款全文随模型附上（如果基座带有条款文件）。\n"
        f"- 修改说明：{_changes(facts)}",
        "## 训练数据",
        _data(facts),
        "## 训练参数",
        _training(facts),
        "## 评测",
        _metrics(facts),
        "## 回答示例",
        _samples(facts),
        "## 怎么用",
        _usage(facts, repo, platform),
        "## 局限",
        "- 模型很小、数据单一，只适合训练过的这类请求；别的问题回答得不好，也可能编造事实。\n"
        "- 硬伤由规则查出（停不下来、复读、送错了人或场景等），查不出的更多，没有硬伤不等于好。\n"
        f"- 质量是 {models.EMBEDDED} 给每个词元的平均概率：看得出不通顺和答非所问，看不出真假、新意和分寸，"
        "只能和同一份试卷上的别的模型比大小。\n"
        "- 数据由模板或另一个模型生成，会带着它们的口吻和偏差；发送之前请自己读一遍。\n"
        "- 不要用于医疗、法律、金融等需要可靠答案的场合。",
    ]


def _changes(facts: Facts) -> str:
    if facts.base.name == models.EMBEDDED:
        return "权重经过微调；词表只留下中文、英文、标点和 emoji，两个标记改了名字，和原版分词器不通用。"
    return "权重经过微调，词表不变。"


def _data(facts: Facts) -> str:
    counts = facts.data.get("counts") or {}
    rows = counts.get("train") or counts.get("rows")
    lines = [f"- 任务：{TASKS.get(facts.task, '未记录')}"]
    if facts.teachers:
        lines.append(f"- 由 {'、'.join(facts.teachers)} 生成，再经课程的规则清洗")
    lines.append(f"- 训练 {rows} 条" if rows else "- 训练条数：未记录")
    if counts.get("test"):
        lines.append(f"- 留作测试、从不参加训练的 {counts['test']} 条")
    lines.append("- 数据本身不在这个仓库里。")
    return "\n".join(lines)


def _training(facts: Facts) -> str:
    settings = (facts.training.get("parameters") or {}).get("settings") or {}
    lines = [f"| {title} | {settings[name]} |" for name, title in _SETTINGS.items() if name in settings]
    if steps := (facts.training.get("counts") or {}).get("iterations"):
        lines.append(f"| 步数 | {steps} |")
    versions = facts.training.get("versions") or {}
    lines += [
        f"| {name} | {versions[name]} |" for name in ("xtuner", "transformers", "peft") if versions.get(name)
    ]
    return "\n".join(["| 参数 | 值 |", "|---|---|", *lines]) if lines else "没有记录。"


def _metrics(facts: Facts) -> str:
    before, after = facts.metrics.get("before"), facts.metrics.get("after")
    if not (before and after):
        return "没有记录。"
    rows = [f"| 测试集损失（每词元，越低越好） | {before['loss']:.2f} | {after['loss']:.2f} |"]
    compared = figures.compare(before.get("figures", {}), after.get("figures", {}))
    rows += [f"| {figures.TITLES[name]} | {old} | {new} |" for name, (old, new) in compared.items()]
    note = f"在 {len(after['rows'])} 条从未训练过的请求上；方括号里是 95% 区间。"
    if facts.parameters.get("quantize"):
        note += "数字属于导出之前的模型。"
    return "\n".join([note, "", "| | 训练前 | 训练后 |", "|---|---|---|", *rows])


def _samples(facts: Facts) -> str:
    if not facts.comparison:
        return "没有记录。"
    rows = [
        f"| {_cell(row['request'])} | {_cell(row['before'])} | {_cell(row['after'])} |"
        for row in facts.comparison[:SAMPLES]
    ]
    return "\n".join(["| 请求 | 训练前 | 训练后 |", "|---|---|---|", *rows])


def _cell(text: str, limit: int = 80) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= limit else text[:limit] + " …"


def _usage(facts: Facts, repo: str, platform: str) -> str:
    name = repo.split("/")[-1].lower()
    system = facts.parameters.get("system", "")
    prompt = f"训练时的系统提示：“{system}”。" if system else "训练时没有系统提示。"
    fetch = {
        "modelscope": f"modelscope download --model {repo} --local_dir model",
        "huggingface": f"hf download {repo} --local-dir model",
        "openxlab": f"git lfs install\ngit clone {OPENXLAB}/{repo}.git model",
    }[platform]
    start = {
        "gguf": f"cd model && ollama create {name} -f Modelfile && ollama run {name}",
        "merged": "vllm serve ./model --served-model-name wishes",
        "adapter": "",
    }[facts.kind]
    commands = "\n".join(line for line in (fetch, start) if line)
    parts = [prompt]
    if commands:
        parts.append(f"```bash\n{commands}\n```")
    if facts.kind == "adapter":
        parts.append("用 PEFT 的 `PeftModel.from_pretrained` 装到基座上；基座要用课程准备的那一份。")
    return "\n\n".join(parts)
