"""The published data sets that the course works with, fetched from where their authors put them.

None of them is in this repository: they have licences of their own. What is fetched is one file, under
``outputs/datasets``, with a provenance that keeps its origin, revision and SHA-256.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import formats, hubs, locks, paths, records
from tianji_helpers.errors import CourseError, check_known

STAGE = "dataset"


@dataclass(frozen=True)
class Published:
    """One data set: what it is, and the file that holds it in each hub's repository.

    file: its path there. Revisions as in the catalogue of models: a Hugging Face commit is immutable,
    ModelScope's ``master`` moves. An empty repository means that the hub does not have it.
    """

    name: str
    title: str
    licence: str
    file: str
    huggingface: str
    huggingface_revision: str
    modelscope: str = ""
    modelscope_revision: str = "master"

    @property
    def sources(self) -> list[str]:
        """The hubs that have it; first the one whose revisions are immutable."""
        return [source for source in ("huggingface", "modelscope") if getattr(self, source)]


CATALOGUE = {
    published.name: published
    for published in (
        Published(
            name="wishes",
            title="送祝福，正常、小红书、严肃三种风格",
            licence="Apache-2.0",
            file="tianji-wishes-chinese-v0.1.json",
            huggingface="sanbu/tianji-chinese",
            huggingface_revision="ec408b90a463dbaa1ad4403cfab0abfeba098cb8",
            # its authors name no copy on ModelScope
        ),
        Published(
            name="ruozhiba",
            title="COIG-CQIA 的弱智吧问答，240 条",
            licence="见数据集主页",
            file="ruozhiba/ruozhiba_ruozhiba.jsonl",
            huggingface="m-a-p/COIG-CQIA",
            huggingface_revision="918d04d2bd039cf70f0fff905ceccd9b1fcc4ba6",
            # the id that public pages link to (modelscope.cn/datasets/m-a-p/COIG-CQIA); whether the file
            # lies there under the same path has not been tried; Hugging Face has it for sure
            modelscope="m-a-p/COIG-CQIA",
        ),
    )
}


def table() -> str:
    """Return the catalogue as text, one data set a line, its origins below."""
    lines = []
    for published in CATALOGUE.values():
        lines.append(f"{published.name:<24}{published.title}（许可证：{published.licence}）")
        for source in published.sources:
            revision = getattr(published, f"{source}_revision")
            lines.append(f"    {source:<12}{getattr(published, source)}@{revision[:12]}  {published.file}")
    return "\n".join(lines)


def fetch(
    name: str,
    folder: str | Path = "",
    *,
    source: str = "",
    endpoint: str = "",
    revision: str = "",
) -> Path:
    """Bring a published data set to ``<folder>/<name>.json`` or ``.jsonl`` and return that file.

    folder: empty means ``outputs/datasets``. source, revision: empty means the catalogue's, and
    whatever is there already will do. endpoint: a mirror of the hub.

    A download goes on where it stopped; the file appears when it is whole and can be read. Raises
    CourseError for an unknown name or source, a file there that is not as it was fetched, and a failed
    download.
    """
    check_known(name, CATALOGUE, "数据集")
    published = CATALOGUE[name]
    if source:
        check_known(source, hubs.SOURCES, "下载源")
        if source not in published.sources:
            raise CourseError(f"{source} 上没有 {name}；请用 --source {published.sources[0]}。")
    folder = paths.datasets_dir() if folder == "" else paths.resolve(folder)
    target = folder / f"{name}{Path(published.file).suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"建不了文件夹 {folder}：{error.strerror}。请用 --output 换一个位置。") from error
    with locks.alone(folder / f".{name}.lock"):
        if _is_there(target, source, revision):
            print(f"已经有了：{paths.told(target)}")
            return target
        source = source or published.sources[0]
        revision = revision or getattr(published, f"{source}_revision")
        repository = getattr(published, source)
        print(f"从 {source} 下载 {repository}@{revision}（许可证：{published.licence}）…")
        part = folder / f".{name}.{source}.part"
        part.mkdir(exist_ok=True)
        only = {"kind": "dataset", "needed": [published.file], "only_needed": True}
        origin = hubs.fetch(source, repository, revision, part, endpoint=endpoint, **only)
        fetched = part / published.file
        rows = list(formats.iter_rows(fetched))  # whole, and JSON
        shape = formats.detect(rows[0][1], rows[0][0]) if rows else "空"
        with records.writing(target):
            records.sync(fetched)
            fetched.replace(target)
        records.write_provenance(
            target,
            stage=STAGE,
            parameters={"name": name, **origin, "file": published.file},
            counts={"rows": len(rows)},
        )
        shutil.rmtree(part)
    print(f"{len(rows)} 条，格式 {shape}：{paths.told(target)}")
    return target


def _is_there(target: Path, source: str, revision: str) -> bool:
    """Say whether ``target`` is what was asked for. Raises CourseError if somebody changed it."""
    if not target.is_file():
        return False
    made = records.provenance(target)
    if made.get("sha256") != records.sha256(target):
        raise CourseError(f"{target} 和下载时不一样（或者不是下载来的）。请给它改名，或删掉它，再运行一次。")
    origin = made["parameters"]
    return source in ("", origin["source"]) and revision in ("", origin["revision"], origin.get("commit"))
