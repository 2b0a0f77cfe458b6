"""The catalogue of base models, and downloads from loopback servers that speak the hubs' protocols.

The clients run in processes of their own (``tianji prepare-model``) with a clean environment: they
read their settings when they are imported, and must neither see nor touch the user's caches.
"""

import json
import random
import re
import shutil
import time

import loopback_hub
import pytest
import tiny_models

from tianji_helpers import hubs, packaged, paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import tower
from tianji_helpers.training import embedded, models

pytestmark = pytest.mark.slow

NAME = "qwen2.5-0.5b-instruct"
MODEL = models.find(NAME)
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": '{"version": "1.0", "祝": 1}'.encode(),
    "tokenizer_config.json": b"{}",
    "runs/notes.txt": b"a file in a folder\n",
    # more than the 10 MB that huggingface_hub reads before it writes
    WEIGHTS: random.Random(0).randbytes(24_000_000),
}


@pytest.fixture
def start_hub():
    with loopback_hub.starter(
        FILES, WEIGHTS, MODEL.huggingface, MODEL.huggingface_revision, MODEL.modelscope
    ) as start:
        yield start


@pytest.fixture
def models_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def prepare(tmp_path, models_dir):
    """Run ``tianji prepare-model`` for the model of these tests against a hub."""

    def run(hub, source, name=NAME, **environment):
        environment["TIANJI_MODELS_DIR"] = str(models_dir)
        command = ["prepare-model", "--source", source, "--endpoint", hub.url, name]
        return loopback_hub.run_client(tmp_path, *command, **environment)

    return run


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def test_an_unknown_name_gets_the_close_one():
    with pytest.raises(CourseError, match=r"没有叫 internlm2-chat-7B 的模型。你是想用 internlm2-chat-7b 吗"):
        models.find("internlm2-chat-7B")
    with pytest.raises(CourseError) as caught:
        models.find("zzz")
    assert "你是想用" not in str(caught.value)
    assert all(name in str(caught.value) for name in models.CATALOGUE)


def test_the_table_has_licence_sizes_and_origin_of_every_model():
    table = models.table()
    for model in models.CATALOGUE.values():
        (row,) = re.findall(rf"^{re.escape(model.name)} .*\n.*$", table, re.MULTILINE)
        assert model.licence in row
        assert f"{model.package_gb or model.download_gb:.1f} GB" in row
        assert f"{model.modelscope}@{model.modelscope_revision}" in row
        assert f"{model.huggingface}@{model.huggingface_revision[:12]}" in row


def test_huggingface_revisions_are_commits():
    for model in models.CATALOGUE.values():
        assert re.fullmatch("[0-9a-f]{40}", model.huggingface_revision), model.name


def test_the_table_shows_what_is_prepared(models_dir):
    assert "已准备" not in models.table()
    records.write_json(MODEL.folder / "config.json", {})
    assert "已准备" not in models.table()  # an interrupted copy by hand, say
    records.write_provenance(MODEL.folder, stage="prepare-model", parameters={})
    assert re.findall("^(.*?) .*已准备", models.table(), re.MULTILINE) == [NAME]


def test_locating_an_unprepared_model_names_the_command(models_dir):
    with pytest.raises(CourseError, match=f"请先运行 tianji prepare-model {NAME}"):
        models.locate(NAME)


def test_the_embedded_model_is_prepared_once(base_dir):
    before = {file.name: file.stat().st_mtime_ns for file in base_dir.iterdir()}
    lines = []
    start = time.process_time()
    assert models.prepare(report=lines.append) == base_dir == models.locate(models.EMBEDDED)
    assert time.process_time() - start < 1  # seconds; unpacking takes many
    assert lines == []
    assert {file.name: file.stat().st_mtime_ns for file in base_dir.iterdir()} == before


def test_the_embedded_model_comes_with_its_terms(base_dir):
    assert "Gemma" in (base_dir / "GEMMA_TERMS.html").read_text(encoding="utf-8")
    record = records.read_json(records.provenance_path(base_dir))
    assert record["parameters"]["name"] == models.EMBEDDED
    assert re.fullmatch("[0-9a-f]{64}", record["parameters"]["sha256"])


def test_an_unknown_source_is_refused(models_dir, start_hub):
    hub = start_hub()
    with pytest.raises(CourseError, match="没有叫 github 的下载源。可选：modelscope、huggingface"):
        models.prepare(NAME, source="github", endpoint=hub.url)
    assert hub.log == []
    assert not models_dir.exists()


def test_a_folder_that_somebody_brought_is_kept(prepare, models_dir, start_hub):
    own = models_dir / NAME
    own.mkdir(parents=True)
    (own / "config.json").write_text('{"mine": true}')
    (models_dir / f".{NAME}.notes.part").mkdir()
    done = prepare(start_hub(), "huggingface")
    assert done.returncode == 0 and f"留作 {NAME}.kept-1" in done.stdout
    assert (models_dir / f"{NAME}.kept-1" / "config.json").read_text() == '{"mine": true}'
    assert (own / WEIGHTS).is_file() and (models_dir / f".{NAME}.notes.part").is_dir()


def test_too_little_disk_is_refused_before_the_download(models_dir, start_hub, monkeypatch):
    hub = start_hub()
    usage = shutil.disk_usage(paths.ROOT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=400_000_000))
    with pytest.raises(CourseError, match=r"还需要 1\.1 GB.*只剩 0\.4 GB.*TIANJI_MODELS_DIR"):
        models.prepare(NAME, source="huggingface", endpoint=hub.url, report=lambda line: None)
    # what an interrupted download left counts
    with (models_dir / f".{NAME}.huggingface.part" / WEIGHTS).open("wb") as file:
        file.truncate(550_000_000)  # sparse: takes no room
    with pytest.raises(CourseError, match=r"还需要 0\.5 GB.*只剩 0\.4 GB"):
        models.prepare(NAME, source="huggingface", endpoint=hub.url, report=lambda line: None)
    assert hub.log == []
    assert not MODEL.folder.exists()


def test_huggingface_delivers_the_pinned_commit(start_hub, prepare, models_dir):
    hub = start_hub()
    done = prepare(hub, "huggingface")
    assert done.returncode == 0, done.stderr
    assert contents(models_dir / NAME) == FILES
    assert hub.asked(f"/revision/{MODEL.huggingface_revision}")
    fetched = {path for method, path, *_ in hub.asked("/resolve/") if method == "HEAD"}
    assert fetched == {f"/{MODEL.huggingface}/resolve/{MODEL.huggingface_revision}/{name}" for name in FILES}
    assert not hub.asked("/resolve/main/")
    origin = records.read_json(models_dir / f"{NAME}.provenance.json")["parameters"]
    assert origin["source"] == "huggingface"
    assert (origin["repository"], origin["revision"]) == (MODEL.huggingface, MODEL.huggingface_revision)
    # and the second time, nobody is asked
    hub.log.clear()
    assert prepare(hub, "huggingface").returncode == 0
    assert hub.log == []


def test_modelscope_delivers_the_pinned_revision_from_the_endpoint(start_hub, prepare, models_dir):
    hub, elsewhere = start_hub(), start_hub()
    # --endpoint wins over both of the client's own variables
    done = prepare(hub, "modelscope", MODELSCOPE_ENDPOINT=elsewhere.url, MODELSCOPE_DOMAIN=elsewhere.url)
    assert done.returncode == 0, done.stderr
    assert elsewhere.log == []
    assert contents(models_dir / NAME) == FILES
    revisions = {query["Revision"][0] for _, _, query, _ in hub.asked(f"/models/{MODEL.modelscope}/repo")}
    assert revisions == {MODEL.modelscope_revision}
    origin = records.read_json(models_dir / f"{NAME}.provenance.json")["parameters"]
    assert origin["source"] == "modelscope"
    assert (origin["repository"], origin["revision"]) == (MODEL.modelscope, MODEL.modelscope_revision)


@pytest.mark.parametrize("generation", [{}, {"eos_token_id": [2, 9], "pad_token_id": 2}])
def test_a_base_model_gets_the_chat_template_that_it_will_be_taught(prepare, models_dir, generation):
    model = models.find("internlm2-1_8b")
    assert not model.chats and all(models.find(name).chats for name in ("internlm2-chat-1_8b", NAME))
    known = {"0": {"content": "<unk>"}, "7": {"content": "<|im_end|>"}}
    files = FILES | {
        "config.json": b'{"model_type": "internlm2", "eos_token_id": 2}',
        "tokenizer_config.json": json.dumps({"bos_token": "<s>", "added_tokens_decoder": known}).encode(),
    }
    if generation:
        files["generation_config.json"] = json.dumps(generation).encode()
    with loopback_hub.starter(
        files, WEIGHTS, model.huggingface, model.huggingface_revision, model.modelscope
    ) as start:
        done = prepare(start(), "modelscope", model.name)
    assert done.returncode == 0, done.stderr
    found = contents(models_dir / model.name)
    assert found.pop("chat_template.jinja").decode() == embedded.CHAT_TEMPLATE
    wanted = {"eos_token_id": [2, 9, 7], "pad_token_id": 2} if generation else {"eos_token_id": [2, 7]}
    assert json.loads(found.pop("generation_config.json")) == wanted
    assert found == {name: data for name, data in files.items() if name != "generation_config.json"}


def test_a_model_that_thinks_gets_a_chat_template_that_does_not(prepare, models_dir):
    model = models.find("qwen3-0.6b")
    settings = {"bos_token": None, "added_tokens_decoder": {"7": {"content": "<|im_end|>"}}}
    thinking = json.dumps(settings | {"chat_template": tiny_models.THINKS}).encode()
    with loopback_hub.starter(
        FILES | {"tokenizer_config.json": thinking},
        WEIGHTS,
        model.huggingface,
        model.huggingface_revision,
        model.modelscope,
    ) as start:
        done = prepare(start(), "huggingface", model.name)
    assert done.returncode == 0, done.stderr
    found = contents(models_dir / model.name)
    assert json.loads(found["tokenizer_config.json"]) == settings
    assert found["chat_template.jinja"].decode() == embedded.CHAT_TEMPLATE.removeprefix("{{ bos_token }}")


def test_of_clip_the_half_for_pictures_is_kept_and_says_the_same(prepare, models_dir, tmp_path):
    import torch
    from transformers import CLIPModel

    model = models.find("clip-vit-large-patch14-336")
    with pytest.raises(CourseError, match="请运行 tianji prepare-model clip-vit-large-patch14-336"):
        tower.load(model.folder)
    whole = tiny_models.save_clip(tmp_path / "clip")
    files = contents(whole) | {"tf_model.h5": b"the same again", "README.md": b"no licence here"}
    with loopback_hub.starter(
        files, "pytorch_model.bin", model.huggingface, model.huggingface_revision, model.modelscope
    ) as start:
        hub = start()
        done = prepare(hub, "huggingface", model.name)
    assert done.returncode == 0, done.stderr
    assert "MIT" in done.stdout and not hub.asked("tf_model")
    kept = {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert set(contents(model.folder)) == kept
    shown = torch.rand(2, 3, 56, 56)
    expected = CLIPModel.from_pretrained(whole, use_safetensors=False).vision_model(shown)
    assert torch.equal(tower.load(model.folder)(shown).last_hidden_state, expected.last_hidden_state)


def test_a_repositorys_code_is_not_kept(prepare, models_dir):
    model = models.find("internlm2-chat-1_8b")
    names = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None], "AutoConfig": "c.C"}
    files = FILES | {
        "config.json": json.dumps({"model_type": "internlm2", "auto_map": {"AutoConfig": "c.C"}}).encode(),
        "tokenizer_config.json": json.dumps({"auto_map": names}).encode(),
        "c.py": b"import os",
        "custom_generate/generate.py": b"import os",
    }
    with loopback_hub.starter(
        files, WEIGHTS, model.huggingface, model.huggingface_revision, model.modelscope
    ) as start:
        done = prepare(start(), "modelscope", model.name)
    assert done.returncode == 0, done.stderr
    assert not list(model.folder.rglob("*.py")) and not (model.folder / "custom_generate").exists()
    where = "internlm/internlm2-chat-1_8b--"
    found = records.read_json(model.folder / "tokenizer_config.json")["auto_map"]
    assert found == {"AutoTokenizer": [where + names["AutoTokenizer"][0], None], "AutoConfig": where + "c.C"}


@pytest.mark.parametrize("source", hubs.SOURCES)
def test_a_cut_download_fails_with_the_fix_and_goes_on_later(source, start_hub, prepare, models_dir):
    hub = start_hub(dies=True)
    for attempt in ("cut half-way", "nobody answers"):
        done = prepare(hub, source)
        assert done.returncode == 1, attempt
        repository = f"{getattr(MODEL, source)}@{getattr(MODEL, f'{source}_revision')}"
        assert f"错误：没能从 {source} 下载 {repository}" in done.stderr
        assert "再运行一次" in done.stderr
        assert "--source" in done.stderr
        assert "--endpoint" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (models_dir / NAME).exists()
        assert not (models_dir / f"{NAME}.provenance.json").exists()
    healthy = start_hub()
    done = prepare(healthy, source)
    assert done.returncode == 0, done.stderr
    assert contents(models_dir / NAME) == FILES
    (start,) = [wanted for method, _, _, wanted in healthy.asked("/storage/") if method == "GET"]
    assert int(re.fullmatch(r"bytes=(\d+)-", start)[1]) >= 10_000_000
    assert {path.name for path in models_dir.iterdir()} == {f".{NAME}.lock", NAME, f"{NAME}.provenance.json"}


@pytest.mark.parametrize("source", hubs.SOURCES)
def test_tampered_weights_are_refused(source, start_hub, prepare, models_dir):
    done = prepare(start_hub(tampered=True), source)
    assert done.returncode == 1
    assert f"没能从 {source} 下载" in done.stderr
    assert WEIGHTS in done.stderr.rpartition("错误：")[2]
    assert not (models_dir / NAME).exists()
    assert not list(models_dir.rglob(WEIGHTS))


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_an_offline_client_is_told_which_variable(variable, start_hub, prepare, models_dir):
    hub = start_hub()
    done = prepare(hub, "huggingface", **{variable: "1"})
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE（或 TRANSFORMERS_OFFLINE）禁止访问 Hugging Face" in done.stderr
    assert "请先 unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE" in done.stderr
    assert hub.log == []
    assert not (models_dir / NAME).exists()


def test_the_teacher_needs_room_for_both_its_forms(models_dir, monkeypatch):
    usage = shutil.disk_usage(paths.ROOT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3_000_000_000))
    with pytest.raises(CourseError, match=r"还需要 4\.4 GB.*只剩 3\.0 GB"):
        models.prepare(packaged.TEACHER)
    packaged.gguf_file().touch()
    with pytest.raises(CourseError, match=r"还需要 3\.3 GB.*只剩 3\.0 GB"):
        models.prepare(packaged.TEACHER)


def test_the_teacher_may_come_from_a_hub_as_well(models_dir, prepare):
    model = models.find(packaged.TEACHER)
    with loopback_hub.starter(
        FILES, WEIGHTS, model.huggingface, model.huggingface_revision, model.modelscope
    ) as start:
        done = prepare(start(), "huggingface", model.name)
    assert done.returncode == 0, done.stderr
    assert contents(model.folder) == FILES and not packaged.gguf_file().exists()


def test_embedded_model_is_not_downloaded():
    with pytest.raises(CourseError, match="由安装包提供"):
        models.prepare(models.EMBEDDED, source="huggingface")
