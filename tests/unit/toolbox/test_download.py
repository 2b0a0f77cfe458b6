"""Published data sets, fetched from loopback servers that speak the hubs' protocols."""

import json
import re

import loopback_hub
import pytest

from tianji_helpers import hubs, records
from tianji_helpers.dataset import ruozhiba
from tianji_helpers.errors import CourseError
from tianji_toolbox.dataset import download

pytestmark = pytest.mark.slow

NAME = "ruozhiba"
DATA = download.CATALOGUE[NAME]
ROW = {"instruction": "为什么", "input": "", "output": "因为", "metadata": "无"}
# more than the 10 MB that huggingface_hub reads before it writes
LONG = json.dumps(ROW | {"output": "因为" * 4_000_000}, ensure_ascii=False)
FILES = {
    "README.md": b"# card\n",
    DATA.file: f"{json.dumps(ROW, ensure_ascii=False)}\n{LONG}\n".encode(),
    "wiki/other.jsonl": b"another part of the set\n",
}


@pytest.fixture
def start_hub():
    names = (DATA.huggingface, DATA.huggingface_revision, DATA.modelscope)
    with loopback_hub.starter(FILES, DATA.file, *names, kind="datasets") as start:
        yield start


@pytest.fixture
def dataset(tmp_path):
    """Run ``tianji dataset`` against a hub; the files go to ``tmp_path / "out"``."""

    def run(hub, source, *options, **environment):
        command = ["dataset", NAME, "--output", str(tmp_path / "out"), "--source", source]
        return loopback_hub.run_client(tmp_path, *command, "--endpoint", hub.url, *options, **environment)

    return run


@pytest.mark.parametrize("source", hubs.SOURCES)
def test_one_file_arrives_at_the_pinned_revision_with_its_checksum(source, start_hub, dataset, tmp_path):
    hub = start_hub()
    done = dataset(hub, source)
    assert done.returncode == 0, done.stderr
    assert "2 条，格式 alpaca" in done.stdout
    target = tmp_path / "out" / "ruozhiba.jsonl"
    assert target.read_bytes() == FILES[DATA.file]
    assert len(ruozhiba.read_source(target)) == 2
    assert not hub.asked("other.jsonl") and not hub.asked("README.md")
    made = records.read_json(records.provenance_path(target))
    assert made["sha256"] == loopback_hub.sha256(FILES[DATA.file])
    origin = made["parameters"]
    revision = getattr(DATA, f"{source}_revision")
    assert (origin["source"], origin["repository"]) == (source, "m-a-p/COIG-CQIA")
    assert (origin["revision"], origin["file"]) == (revision, DATA.file)
    if source == "huggingface":
        assert origin["commit"] == revision and hub.asked(f"/revision/{revision}")
    else:
        assert {q["Revision"][0] for _, _, q, _ in hub.asked("/repo") if "Revision" in q} == {"master"}
    # and the second time, nobody is asked
    hub.log.clear()
    assert "已经有了" in dataset(hub, source).stdout
    assert hub.log == []
    # unless it was changed: that is never overwritten
    target.write_text("mine")
    done = dataset(hub, source)
    assert done.returncode == 1 and "和下载时不一样" in done.stderr
    assert target.read_text() == "mine" and hub.log == []


@pytest.mark.parametrize("source", hubs.SOURCES)
def test_a_cut_download_goes_on_later(source, start_hub, dataset, tmp_path):
    done = dataset(start_hub(dies=True), source)
    assert done.returncode == 1
    assert f"错误：没能从 {source} 下载 m-a-p/COIG-CQIA@{getattr(DATA, f'{source}_revision')}" in done.stderr
    assert "再运行一次" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("ruozhiba*"))
    healthy = start_hub()
    done = dataset(healthy, source)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "ruozhiba.jsonl").read_bytes() == FILES[DATA.file]
    (start,) = [wanted for method, _, _, wanted in healthy.asked("/storage/") if method == "GET"]
    assert int(re.fullmatch(r"bytes=(\d+)-", start)[1]) >= 10_000_000
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".ruozhiba.lock", "ruozhiba.jsonl", "ruozhiba.jsonl.provenance.json"}


@pytest.mark.parametrize("source", hubs.SOURCES)
def test_tampered_content_is_refused(source, start_hub, dataset, tmp_path):
    done = dataset(start_hub(tampered=True), source)
    assert done.returncode == 1 and f"没能从 {source} 下载" in done.stderr
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_a_small_file_is_checked_by_its_git_id(start_hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    options = {"kind": "dataset", "needed": ["README.md"], "only_needed": True}
    names = ("huggingface", DATA.huggingface, DATA.huggingface_revision)
    hub = start_hub(tampered="README.md")
    with pytest.raises(CourseError, match=r"README\.md 的内容和仓库登记的校验和不一致，已删除"):
        hubs.fetch(*names, tmp_path, endpoint=hub.url, **options)
    assert not (tmp_path / "README.md").exists()
    hubs.fetch(*names, tmp_path, endpoint=start_hub().url, **options)
    assert (tmp_path / "README.md").read_bytes() == FILES["README.md"]


def test_a_missing_repository_is_an_error_with_its_name(start_hub, dataset):
    done = dataset(start_hub(), "huggingface", "--revision", "main")
    assert done.returncode == 1 and "没能从 huggingface 下载 m-a-p/COIG-CQIA@main" in done.stderr


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(CourseError, match="没有叫 ruozhi 的数据集。你是想用 ruozhiba 吗"):
        download.fetch("ruozhi", tmp_path)
    with pytest.raises(CourseError, match="没有叫 github 的下载源"):
        download.fetch(NAME, tmp_path, source="github")
    with pytest.raises(CourseError, match="modelscope 上没有 wishes；请用 --source huggingface"):
        download.fetch("wishes", tmp_path, source="modelscope")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"建不了文件夹 .*file/out.*--output"):
        download.fetch(NAME, tmp_path / "file" / "out")


def test_the_table_names_origin_and_licence():
    table = download.table()
    for published in download.CATALOGUE.values():
        assert all(text in table for text in (published.name, published.licence, published.huggingface))
        assert re.fullmatch("[0-9a-f]{40}", published.huggingface_revision)
