"""What a repository must not get, in the forms in which it hides: keys, homes, training data."""

import base64
import html
import json
import re
import time
from urllib.parse import quote

import gguf
import numpy
import pytest

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_toolbox.shipping import leaks

A, D, X = (
    "aB3dE7gH" * 8,
    "0123456789" * 7,
    "0a1b2c3d" * 9,
)  # put together, so that no scanner takes them for real
KEYS = {
    "openai": "sk-" + "proj-" + A[:40],
    "deepseek": "sk-" + X[:32],
    "zhipu": X[:32] + "." + A[:16],
    "huggingface": "hf" + "_" + A[:34],
    "modelscope": "ms-" + "0a1b2c3d-0a1b-4c3d-8e9f-0a1b2c3d4e5f",
    "github": "gh" + "p_" + A[:36],
    "github app": "gh" + "s_" + A[:36],
    "github fine": "github" + "_pat_" + A[:22] + "_" + A[:59],
    "gitlab": "gl" + "pat-" + A[:20],
    "gitlab runner": "gl" + "rt-" + A[:20],
    "gitlab trigger": "gl" + "ptt-" + X[:40],
    "aliyun": "LT" + "AI5t" + A[:20],
    "aliyun secret": "AccessKeySecret: " + A[:30],
    "tencent": "AK" + "ID" + A[:32],
    "tencent secret": 'SecretKey = "' + A[:32] + '"',
    "volcengine": "AK" + "LT" + A[:40],
    "baidu": "bce-v3/" + "AL" + "TAK-" + A[:21],
    "aws": "AK" + "IA" + "ABCD1234EFGH5678",
    "google": "AI" + "za" + A[:35],
    "slack": "xox" + "b-" + D[:12] + "-" + A[:24],
    "stripe": "sk" + "_live_" + A[:24],
    "npm": "npm" + "_" + A[:36],
    "dingtalk": "SE" + "C" + X[:64],
    "jwt": "ey" + "JhbGciOiJIUzI1NiJ9." + "ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0." + A[:43],
    "pem": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "pem, encrypted": "-----BEGIN " + "ENCRYPTED PRIVATE KEY-----",
    "url": "https://ming:" + "geheim-1@example.com/x",
    "netrc": "machine example.com login ming " + "password geheim-1234",
    "password": 'password: "' + A[:18] + '"',
    "密码": "密码：" + A[:18],
    "a password of one's own": "DB_PASS" + "WORD=Somm3r!2024",
    "redis": "redis://" + ":geheim-1234@10.0.0.3:6379",
    "xai": "xa" + "i-" + A + A[:16],
    "nvidia": "nv" + "api-" + A,
    "sendgrid": "S" + "G." + A[:22] + "." + A[:43],
    "docker": "dckr" + "_pat_" + A[:27],
    "docker login": json.dumps({"au" + "th": base64.b64encode(b"ming:geheim-1234").decode()}),
    "vault": "hv" + "s." + A + A[:31],
    "linear": "lin" + "_api_" + A[:40],
    "databricks": "da" + "pi" + X[:32],
    "postman": "PM" + "AK-" + X[:24] + "-" + X[:34],
    "azure": "Account" + "Key=" + A + A[:22] + "==",
    "telegram": D[1:11] + ":A" + "A" + A[:33],
    "discord": "M" + A[:23] + "." + A[:6] + "." + A[:27],
    "cloudflare": "CLOUDFLARE_API" + "_TOKEN=" + A[:40],
    "session": "session" + "_token=" + A[:40],
    "wandb": "WANDB_API" + "_KEY=" + X[:40],
    "slack's hook": "https://hooks.slack.com/" + "services/T0000/B0000/" + A[:24],
    "dingtalk's hook": "https://oapi.dingtalk.com/robot/" + "send?access_token=" + X[:64],
    "wecom's hook": "https://qyapi.weixin.qq.com/cgi-bin/webhook/" + "send?key=" + X[:36],
    "feishu's hook": "https://open.feishu.cn/open-apis/bot/v2/" + "hook/" + X[:36],
}
CODES = {
    "plain": str,
    "json": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "html": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "address": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "url-safe base64 in a word": lambda text: (
        "blob_" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    ),
    "base64 in short lines": lambda text: "\n".join(
        re.findall(".{1,20}", base64.b64encode(text.encode()).decode())
    ),
    "hex": lambda text: text.encode().hex(),
    "hex in lines, in json": lambda text: json.dumps(re.sub("(.{30})", r"\1\n", text.encode().hex())),
    "base64 in json": lambda text: json.dumps(base64.b64encode(text.encode()).decode()).replace("/", "\\/"),
}


def found(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CourseError) as caught:
        leaks.inspect(file)
    return str(caught.value)


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_the_services_that_students_use(name, tmp_path):
    message = found(tmp_path / "config.json", json.dumps({"note": f"x {KEYS[name]} y"}, ensure_ascii=False))
    assert "像密钥的内容" in message and A[:12] not in message


@pytest.mark.parametrize("code", CODES)
def test_a_key_is_decoded_before_it_is_looked_for(code, tmp_path):
    for name in ("deepseek", "github", "aliyun", "jwt", "密码"):
        assert "像密钥的内容" in found(tmp_path / "chat_template.jinja", f"a {CODES[code](KEYS[name])} b"), (
            name
        )


@pytest.mark.parametrize(
    "pasted",
    [
        lambda key: key.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}),  # full-width
        lambda key: "\u200b".join(key),
        lambda key: key[:9] + "\u2060" + key[9:20] + "\ufeff" + key[20:],
    ],
    ids=["full-width", "zero width", "two of them"],
)
def test_a_key_is_found_as_a_web_page_gives_it(pasted, tmp_path):
    for name in ("deepseek", "zhipu", "huggingface", "github", "jwt"):
        text = f"密钥在这里 {pasted(KEYS[name])}，别外传"
        for written in (text, json.dumps(text), html.escape(text), base64.b64encode(text.encode()).decode()):
            assert "像密钥的内容" in found(tmp_path / "README.md", written), (name, written)


def test_chinese_punctuation_is_no_part_of_a_key(tmp_path):
    (tmp_path / "README.md").write_text("主页在 https://example.com：写信给ming@example.com，Ａ组　①②③")
    leaks.inspect(tmp_path / "README.md")


def test_other_alphabets_are_decoded(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        key = KEYS["github"].encode(encoding)
        for content in (key, base64.b64encode(key)):
            assert "像密钥的内容" in found(tmp_path / "merges.txt", content)


@pytest.mark.parametrize(
    "home",
    [
        "/home/张三/secret",
        "/Users/李 四/x",
        "C:\\Users\\王五",
        "D:/Users/ming",
        "file:///root/x",
        "/mnt/c/Users/ming",
        "c:\\users\\ming",
        r"\\wsl.localhost\Ubuntu\home\ming",
    ],
)
def test_homes_in_any_script(home, tmp_path):
    for text in (home, json.dumps({"a": home}), quote(home), html.escape(home)):
        assert "这台机器上的路径" in found(tmp_path / "special_tokens_map.json", text), text


def test_a_user_without_a_home_is_looked_after_as_others_are(homeless, tmp_path):
    (file := tmp_path / "vocab.json").write_text('{"祝福": 1}', encoding="utf-8")
    leaks.inspect(file)
    assert "这台机器上的路径" in found(tmp_path / "vocab.json", f'{{"{paths.ROOT}": 1}}')


def test_values_of_the_environment_in_any_encoding(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "very-own-secret")
    for text in (
        "very-own-secret",
        base64.b64encode(b"me:very-own-secret!").decode(),
        b"very-own-secret".hex(),
    ):
        message = found(tmp_path / "vocab.json", json.dumps({text: 1}))
        assert "像密钥的内容" in message and "very" not in message


def test_what_models_consist_of_is_no_leak(tmp_path, base_dir):
    own = ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja")
    for name in (*own, "GEMMA_TERMS.html", "NOTICE.md"):  # a web page of Google's, with keys of its own
        leaks.inspect(base_dir / name)
    words = {"/home": 1, "/Users": 2, "sk": 3, "▁password": 4, "password": 123456789012345678, "token": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    leaks.inspect(tmp_path / "vocab.json")


def write_gguf(file):
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_description("a model")
    writer.add_tensor("t", numpy.zeros(32, dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_nothing_stands_behind_the_tensors(tmp_path):
    file = write_gguf(tmp_path / "m.gguf")
    leaks.inspect(file)
    assert "之后还有" in found(file, file.read_bytes() + b"x" * 5000)


@pytest.mark.parametrize("place", [8, 16])
def test_a_header_that_promises_too_much_does_not_hang(place, tmp_path):
    data = bytearray(write_gguf(tmp_path / "m.gguf").read_bytes())
    data[place : place + 8] = (1 << 60).to_bytes(8, "little")  # tensors, or settings
    start = time.process_time()
    assert "不完整" in found(tmp_path / "m.gguf", bytes(data))
    assert time.process_time() - start < 60  # seconds; of one that promises this, the reader alone never ends
