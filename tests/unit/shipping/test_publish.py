"""Publishing: the card, the checks, and uploads to loopback servers that speak the hubs' protocols.

The platforms' own clients upload, in processes of their own with a clean environment: they read their
settings when they are imported, and must neither see nor touch the user's credentials.
"""

import base64
import hashlib
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import loopback_hub
import numpy
import pytest
import yaml
from safetensors.numpy import save_file

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.shipping import card, publish

TOKEN = "hf_" + "x" * 30
REPO = "xiaoming/wishes"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"
HUBS = ("modelscope", "huggingface")  # those with a client of their own


def test_the_card_is_made_of_what_was_recorded(merged):
    text = card.write(card.gather(merged), REPO, "huggingface")
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "gemma" and head["base_model"] == "google/gemma-3-270m"
    assert head["library_name"] == "transformers"
    for expected in (
        "Gemma Terms of Use",
        "由 recorded-large 生成",
        "训练 1123 条",
        "| 学习率 | 0.002 |",
        "| LoRA 秩 r | 64 |",
        "| 步数 | 280 |",
        "| 测试集损失（每词元，越低越好） | 4.49 | 1.20 |",
        "| 没有硬伤 | 0% [0%, 0%] | 94% [88%, 99%] |",
        "| 质量 | — | 0.21 [0.20, 0.22] |",
        "| · 停不下来 | 100% [100%, 100%] | 0% [0%, 0%] |",
        "在 32 条从未训练过的请求上",
        "| 祝姐姐生日\\|快乐 | 祝你 祝你",
        "姐姐，生日快乐！",
        "你是送祝福大师",
        "## 局限",
    ):
        assert expected in body, expected


def test_the_card_says_what_nobody_recorded(merged):
    shutil.rmtree(merged.parents[2] / "05_training")
    (merged.parent / "comparison.json").unlink()
    body = card.write(card.gather(merged), REPO, "modelscope")
    assert body.count("没有记录。") == 3 and "训练条数：未记录" in body


def test_a_model_of_unknown_descent_is_not_published(merged):
    records.provenance_path(merged).unlink()
    with pytest.raises(CourseError, match="没法写明许可证"):
        card.gather(merged)


def test_metrics_of_another_model_are_not_taken(merged):
    file = merged.parents[2] / "05_training" / "wishes" / "metrics.json"
    records.write_json(file, records.read_json(file) | {"base_model": "qwen2.5-0.5b-instruct"})
    with pytest.raises(CourseError, match="要发布的却是 gemma"):
        card.gather(merged)


def test_the_plan_lists_every_file_that_goes_up(merged, capsys):
    before = {file: file.read_bytes() for file in merged.iterdir()}
    assert cli.main(["publish", str(merged), "--to", "huggingface", "--repo", REPO]) == 0
    shown = capsys.readouterr().out
    folder = merged.with_name("merged.publish") / "huggingface"
    names = {file.name for file in folder.iterdir()}
    assert names == {*SHARDS, INDEX, "config.json", "tokenizer.json", "README.md", "GEMMA_TERMS.html"}
    for file in folder.iterdir():
        assert f"{file.stat().st_size:,} 字节  {file.name}" in shown
    assert "什么也没有上传" in shown
    assert {file: file.read_bytes() for file in merged.iterdir()} == before


def test_what_somebody_changed_in_the_folder_is_kept(merged, capsys):
    command = ["publish", str(merged), "--to", "openxlab", "--repo", REPO]
    assert cli.main(command) == cli.main(command) == 0
    folder = merged.with_name("merged.publish") / "openxlab"
    assert {item.name for item in folder.parent.iterdir()} == {"openxlab", "openxlab.provenance.json"}
    text = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(text.replace("送祝福", "写贺词"), encoding="utf-8")  # as many bytes
    capsys.readouterr()
    assert cli.main(command) == 0
    assert "openxlab.kept-1" in capsys.readouterr().out
    kept = folder.with_name("openxlab.kept-1")
    assert "写贺词" in (kept / "README.md").read_text(encoding="utf-8")
    assert (folder / "README.md").read_text(encoding="utf-8") == text
    # a folder that was there before anything was published
    own = merged.with_name("merged.publish") / "modelscope"
    own.mkdir()
    (own / "thesis.docx").write_text("years")
    assert cli.main(["publish", str(merged), "--to", "modelscope", "--repo", REPO]) == 0
    assert (own.with_name("modelscope.kept-1") / "thesis.docx").read_text() == "years"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wishes_train.json", "[]", "wishes_train.json"),
        ("iter_281.pth", "", "iter_281.pth"),
        ("pytorch_model.bin", "", "pytorch_model.bin"),
        (".env", "DEEPSEEK_API_KEY=x", ".env"),
        ("vocab.json", '[{"conversation": []}]', "vocab.json 看起来是训练数据"),
        ("generation_config.json", '{"_name_or_path": "/home/xiaoming/model"}', "/home/xiaoming"),
        ("generation_config.json", '{"_name_or_path": "C:\\\\Users\\\\ming"}', "Users"),
        (
            "generation_config.json",
            json.dumps({"path": str(paths.ROOT / "models")}),
            "generation_config.json 里有这台机器",
        ),
        ("tokenizer_config.json", json.dumps({"token": TOKEN}), "tokenizer_config.json 里有像密钥的内容"),
        ("Modelfile", "SYSTEM sk-" + "a1" * 16, "Modelfile 里有像密钥的内容（sk-a…）"),
        ("generation_config.json", '{"note": "very-own-secret"}', "generation_config.json 里有像密钥"),
    ],
)
def test_what_must_stay_at_home_is_named(name, content, message, merged, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "very-own-secret")
    (merged / name).write_text(content)
    with pytest.raises(CourseError) as error:
        publish.prepare(merged, "huggingface", REPO)
    assert message in str(error.value) and TOKEN not in str(error.value)
    assert "very-own-secret" not in str(error.value)


def test_nobody_is_told_to_take_the_eyes_out_of_a_model(merged):
    for name in ("projector", "tower"):
        (merged / name).mkdir()
    with pytest.raises(CourseError, match=r"会看图（第 7 课）.*tianji web"):
        publish.prepare(merged, "huggingface", REPO)


def test_links_and_pipes_are_not_followed(merged, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("grades of the class")
    (merged / "chat_template.jinja").symlink_to(netrc)
    with pytest.raises(CourseError, match=r"chat_template\.jinja（符号链接）"):
        publish.prepare(merged, "modelscope", REPO)
    (merged / "chat_template.jinja").unlink()
    os.mkfifo(merged / "NOTICE")
    with pytest.raises(CourseError, match=f"^{merged} 里有不属于模型的东西：NOTICE"):
        publish.prepare(merged, "modelscope", REPO)
    (merged / "NOTICE").unlink()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "modelscope").mkdir(parents=True)
    merged.with_name("merged.publish").symlink_to(elsewhere)
    with pytest.raises(CourseError, match="符号链接"):
        publish.prepare(merged, "modelscope", REPO)
    assert (elsewhere / "modelscope").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE.zip",
        "NOTICE.pkl",
        "model-00003-of-00003.safetensors",  # which no index names: nobody looked into it
        "adapter_model.safetensors",
        "tokenization_x.py",
        "config\u202e.json",
        "LICENSE\n\x1b[31mred",
        b"LICENSE\xff",
        ".git",
    ],
)
def test_only_what_a_model_consists_of_is_published(name, merged):
    (merged / os.fsdecode(name)).write_text("x")
    with pytest.raises(CourseError, match="不属于模型的东西") as caught:
        publish.prepare(merged, "huggingface", REPO)
    assert str(caught.value).replace("\n", "").isprintable()
    str(caught.value).encode()


def test_half_a_model_is_not_published(merged):
    (merged / SHARDS[1]).unlink()
    with pytest.raises(CourseError, match=SHARDS[1]):
        publish.prepare(merged, "huggingface", REPO)


def test_code_is_not_published(merged):
    (merged / "config.json").write_text('{"model_type": "internlm2"}')
    (merged / "modeling_internlm2.py").write_text("import os")
    with pytest.raises(CourseError, match=r"modeling_internlm2\.py"):
        publish.prepare(merged, "huggingface", REPO)


def test_a_path_in_the_head_of_the_weights_is_found(merged):
    weights = {"layer.0": numpy.zeros(4)}
    save_file(weights, merged / SHARDS[0], metadata={"from": "/home/xiaoming/base"})
    with pytest.raises(CourseError, match=f"{SHARDS[0]} 里有这台机器上的路径"):
        publish.prepare(merged, "modelscope", REPO)


def test_a_path_in_the_head_of_a_gguf_file_is_found(run):
    import gguf

    folder = run / "06_merge_chat" / "wishes" / "gguf"
    folder.mkdir()
    records.write_provenance(
        folder, stage="06_export", parameters={"base_model": "gemma-3-270m", "quantize": "f16"}
    )
    writer = gguf.GGUFWriter(folder / "m.gguf", "gemma3")
    writer.add_description("/Users/xiaoming/base")
    writer.add_tensor("t", numpy.zeros(32, dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CourseError, match=r"m\.gguf 里有这台机器上的路径 /Users/xiaoming"):
        publish.prepare(folder, "modelscope", REPO)
    (folder / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(CourseError, match=r"m\.gguf 不完整"):
        publish.prepare(folder, "modelscope", REPO)


def test_an_adapter_names_its_base_as_the_hub_does(run):
    folder = run / "06_merge_chat" / "wishes" / "adapter"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "/home/xiaoming/models/gemma-3-270m",
        "r": 2,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "xtuner_config.py").write_text("data_path = '/home/xiaoming/x.json'")
    (folder / "README.md").write_text("peft's own")
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{layer}.lora_A.weight": numpy.zeros((2, 4)), f"{layer}.lora_B.weight": numpy.zeros((4, 2))}
    save_file(weights, folder / "adapter_model.safetensors")
    plan = publish.prepare(folder, "huggingface", REPO)
    assert set(plan.left_out) == {"README.md", "xtuner_config.py"}
    assert "GEMMA_TERMS.html" in dict(plan.files)
    published = json.loads((plan.folder / "adapter_config.json").read_text())
    assert published == config | {"base_model_name_or_path": "google/gemma-3-270m"}
    assert json.loads((folder / "adapter_config.json").read_text()) == config
    assert "| 学习率 | 0.002 |" in (plan.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "repo", ["wishes", "a/b/c", "小明/wishes", "a/明", "-x/y", "../x/y", "a/b..c", "a/b.git", "a/b\n"]
)
def test_odd_repository_names_are_refused(repo, merged):
    with pytest.raises(CourseError, match="用户名/仓库名"):
        publish.prepare(merged, "huggingface", repo)


@pytest.mark.parametrize("platform", publish.TOKENS)
def test_without_a_token_nothing_is_sent(platform, merged, monkeypatch, tmp_path):
    monkeypatch.delenv(publish.TOKENS[platform], raising=False)
    plan = publish.prepare(merged, platform, REPO)
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # no .env there
    with pytest.raises(CourseError, match=publish.TOKENS[platform]):
        publish.upload(plan, endpoint="http://127.0.0.1:1")


class Hub(ThreadingHTTPServer):
    """The upload side of Hugging Face and ModelScope, with one repository at most.

    accepts: how many blobs it stores before it refuses more. blobs: what was sent, by SHA-256.
    files: the repository after the last commit, by name. puts: how often a blob was sent.
    """

    daemon_threads = True

    def __init__(self, accepts=99):
        super().__init__(("127.0.0.1", 0), Handler)
        self.accepts, self.blobs, self.files, self.puts = accepts, {}, None, 0
        self.commits, self.lock = [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def missing(self, objects):
        """Answer a Git LFS batch request: where to put what is not here yet."""
        return [
            {"oid": o["oid"], "size": o["size"]}
            | (
                {}
                if o["oid"] in self.blobs
                else {"actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}"}}}
            )
            for o in objects
        ]

    def commit(self, files):
        """Take a commit: contents, or the SHA-256 of blobs, by name."""
        self.files = (self.files or {}) | {
            name: value if isinstance(value, bytes) else self.blobs[value] for name, value in files.items()
        }
        self.commits.append(sorted(files))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self):
        if TOKEN in self.headers.get("Authorization", "") + self.headers.get("Cookie", ""):
            return True
        self.answer(401, {"error": "Invalid username or password.", "Code": 401, "Message": "login first"})
        return False

    def do_PUT(self):
        data, oid, hub = self.body(), self.path.rsplit("/", 1)[1], self.server
        with hub.lock:
            hub.puts += 1
            if len(hub.blobs) >= hub.accepts:
                return self.answer(403, {"error": "out of space", "Message": "out of space"})
            assert hashlib.sha256(data).hexdigest() == oid
            hub.blobs[oid] = data
        return self.answer(200, {})

    def do_GET(self):
        if not self.allowed():
            return None
        if self.server.files is None:
            return self.answer(404, {"Code": 10010205001, "Message": "not found", "error": "not found"})
        info = {"Path": "xiaoming", "Name": "wishes"}
        return self.answer(200, {"Code": 200, "Success": True, "Data": info, "data": info})

    def do_POST(self):
        content, hub = self.body(), self.server
        if not self.allowed():
            return None
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            known, hub.files = hub.files is not None, hub.files or {}
            return self.answer(409 if known else 200, {"url": f"{hub.url}/{REPO}", "name": REPO})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == f"/api/models/{REPO}/preupload/main":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(content)["files"]
            ]
            return self.answer(200, {"files": modes})
        if path == f"/{REPO}.git/info/lfs/objects/batch":
            return self.answer(200, {"objects": hub.missing(json.loads(content)["objects"])})
        if path == f"/api/models/{REPO}/commit/main":
            lines = [json.loads(line) for line in content.splitlines()]
            hub.commit(
                {
                    line["value"]["path"]: line["value"]["oid"]
                    if line["key"] == "lfsFile"
                    else base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] != "header"
                }
            )
            oid = "0" * 40
            url = f"https://huggingface.co/{REPO}/commit/{oid}"  # behind a mirror, too
            return self.answer(200, {"commitUrl": url, "commitOid": oid})
        if path == "/api/v1/models":
            if hub.files is not None:  # the client makes sure before each upload
                taken = {"Code": 10010101001, "Success": False, "Message": "model already exists"}
                return self.answer(400, taken)
            hub.files = {}
            return self.answer(200, {"Code": 200, "Success": True, "Data": json.loads(content)})
        if path == f"/api/v1/repos/models/{REPO}/info/lfs/objects/batch":
            objects = hub.missing(json.loads(content)["objects"])
            return self.answer(200, {"Code": 200, "Success": True, "Data": {"objects": objects}})
        if path == f"/api/v1/repos/models/{REPO}/commit/master":
            hub.commit(
                {
                    action["path"]: action["sha256"]
                    if action["type"] == "lfs"
                    else base64.b64decode(action["content"])
                    for action in json.loads(content)["actions"]
                }
            )
            return self.answer(200, {"Code": 200, "Success": True, "Data": {}})
        return self.answer(404, {"error": path, "Message": path})


@pytest.fixture
def start():
    hubs = []

    def start(**settings):
        hubs.append(hub := Hub(**settings))
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        return hub

    yield start
    for hub in hubs:
        hub.shutdown()
        hub.server_close()


def tianji_publish(merged, platform, url, token=TOKEN):
    """Run the command with only what it needs in the environment."""
    home = merged.parents[3] / "home"
    home.mkdir(exist_ok=True)
    command = ["publish", str(merged), "--to", platform, "--repo", REPO, "--endpoint", url, "--yes"]
    own = {"TIANJI_MODELS_DIR": os.environ["TIANJI_MODELS_DIR"], "NO_PROXY": "127.0.0.1"}
    done = loopback_hub.run_client(home, *command, **own, **{publish.TOKENS[platform]: token})
    assert token not in done.stdout + done.stderr
    for file in home.rglob("*"):
        assert not (file.is_file() and token.encode() in file.read_bytes()), file
    return done


@pytest.mark.slow
@pytest.mark.parametrize("platform", HUBS)
def test_an_upload_that_broke_goes_on(platform, merged, start):
    hub = start(accepts=1)
    broken = tianji_publish(merged, platform, hub.url)
    assert broken.returncode == 1 and "没能上传" in broken.stderr and "不会再传" in broken.stderr
    assert len(hub.blobs) == 1 and "Traceback" not in broken.stderr
    hub.accepts, hub.puts = 99, 0
    done = tianji_publish(merged, platform, hub.url)
    assert done.returncode == 0, done.stderr
    assert REPO in done.stdout.splitlines()[-1]
    assert hub.puts == 1  # only what was missing
    folder = merged.with_name("merged.publish") / platform
    assert hub.files == {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("platform", HUBS)
def test_a_refused_token_is_said_and_not_shown(platform, merged, start):
    hub = start()
    done = tianji_publish(merged, platform, hub.url, token="wrong-" + "y" * 20)
    assert done.returncode == 1 and "令牌" in done.stderr and "Traceback" not in done.stderr
    assert not hub.files and not hub.blobs
