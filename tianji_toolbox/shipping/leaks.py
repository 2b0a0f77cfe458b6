"""What must not go into a public repository: keys, paths of somebody's machine, training data.

A file is looked at as it stands and decoded: the escapes of JSON, HTML and addresses, base64, hexadecimal,
UTF-16; and without what a web page or an input method adds: full-width letters, characters that nobody sees.
The forms of keys are those of gitleaks' rules for the services that students of the course use.
"""

import base64
import binascii
import hashlib
import html
import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tianji_helpers import paths, redaction
from tianji_helpers.errors import CourseError

_FORMS = (
    r"sk-[\w-]{20,}",  # OpenAI, Anthropic, DeepSeek, Moonshot, DashScope
    r"[0-9a-f]{32}\.\w{16}",  # Zhipu
    r"hf_\w{30,}|api_org_[A-Za-z]{34}",
    r"ms-[0-9a-f]{8}-[0-9a-f-]{27}",  # ModelScope
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct)-[\w.=-]{20,}|GR1348941[\w-]{20}|gitee_\w{30,}",
    r"LTAI[A-Za-z0-9]{12,}|STS\.[A-Za-z0-9]{20,}",  # Aliyun
    r"AKID[A-Za-z0-9]{13,}",  # Tencent
    r"AKLT[A-Za-z0-9_-]{20,}|ALTAK-[A-Za-z0-9]{20,}",  # Volcengine, Baidu
    r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS
    r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",  # Google
    r"xox[abeoprs]-[\w-]{10,}|xapp-\d-[\w-]{10,}",  # Slack
    r"(?:sk|rk|pk)_(?:live|test|prod)_\w{10,}",  # Stripe
    r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",  # JWT
    r"-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1\w{20,}",
    r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"']{0,80}:[^\s/:@\"'{]{3,80}@[\w.-]+",  # an address with a password
    r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+\S+",  # netrc
    r"npm_\w{36}|pypi-[\w-]{50,}|dop_v1_[0-9a-f]{64}|SEC[0-9a-f]{64}|r8_\w{37}|gsk_\w{40,}|tvly-[\w-]{20,}",
    r"xai-\w{60,}|nvapi-[\w-]{40,}|SG\.[\w-]{20,24}\.[\w-]{39,50}|dckr_pat_[\w-]{20,}|hvs\.[\w-]{60,}"
    r"|lin_api_\w{32,}|dapi[0-9a-f]{32}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}|AccountKey=[\w+/]{60,}",
    r"\d{8,10}:AA[\w-]{32,}|[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,}",  # bots of Telegram and Discord
    # addresses that are a key themselves: whoever has one writes into the group
    r"hooks\.slack\.com/services/[\w/]{20,}|oapi\.dingtalk\.com/robot/send\?access_token=\w{20,}"
    r"|qyapi\.weixin\.qq\.com/cgi-bin/webhook/send\?key=[\w-]{20,}|open\.feishu\.cn/open-apis/bot/v2/hook/[\w-]{20,}",
    r"\"auth\"\s{0,4}:\s{0,4}\"[A-Za-z0-9+/]{8,}={0,2}\"",  # Docker's: a password in base64
)
# a word for a secret, and something that looks drawn by lot
_NAMED = (
    r"(?i:passw(?:or)?d|secret(?:[_-]?(?:id|key))?|api[_-]?key|access[_-]?key(?:[_-]?(?:id|secret))?|(?:auth|api|session)[_-]?token"
    r"|access[_-]?token|private[_-]?token|credentials?|密码|密钥|令牌)[\"'\]]{0,2}\s{0,4}(?:[:=：]|=>)\s{0,4}[\"']?"
    r"(?=[\w./+=-]*\d)(?=[\w./+=-]*[A-Za-z])[\w./+=-]{16,}"
    # what people choose for themselves is shorter
    r"|(?i:passw(?:or)?d|密码)[\"'\]]{0,2}\s{0,4}[:=：]\s{0,4}[\"']?"
    r"(?=[^\s\"'<>]*\d)(?=[^\s\"'<>]*[A-Za-z])[^\s\"'<>,;{}()\[\]]{8,}"
)
_KEYS = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_FORMS)})|{_NAMED}", re.ASCII)
_HOMES = re.compile(
    r"(?:/home/|/Users/|/root/|\\home\\{1,2}|[A-Za-z]:[\\/]{1,4}(?i:Users)[\\/]{1,4})"
    r"[^\s\"'/\\:,;<>|*?()\[\]{}]+"
)
_BREAK = r"(?:[\r\n]|\\[rn])+[ \t]*"  # programs break the lines of what they encode
_BASE64 = re.compile(rf"[A-Za-z0-9+/_-]{{16,}}(?:{_BREAK}[A-Za-z0-9+/_-]+)*={{0,2}}")
_HEX = re.compile(rf"(?:[0-9A-Fa-f]{{2}}){{12,}}(?:{_BREAK}(?:[0-9A-Fa-f]{{2}})+)*")
_PRINTABLE = re.compile(rb"(?:[ -~]|[\xc2-\xf4][\x80-\xbf]{1,3}){8,}")  # UTF-8, Chinese as well
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([\\/\"]))")
_UNSEEN = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_DEPTH = 2  # how often one encoding inside another is undone
# licence texts as their owners publish them: the Gemma terms are a web page, with its keys for Google's maps
_PUBLIC = ("152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",)
_MOST_HEADER = 100_000_000  # bytes


def inspect(file: str | Path) -> None:
    """Look into a file that is to be published: its text, or the text before a weights file's numbers.

    Raises CourseError naming the file and what is wrong: a key (one that looks like a key, or one that
    stands in the environment or ``.env``), a path of somebody's home or of this project, training data.
    The message shows no more of a key than its first four characters.
    """
    file = Path(file)
    raw = _head(file)
    if hashlib.sha256(raw).hexdigest() in _PUBLIC:
        return
    for text in _views(_decode(raw)):
        found = _KEYS.search(text)
        if found or redaction.holds(text):
            shown = found[0][:4] if found else "环境变量或 .env 里的值"
            raise CourseError(
                f"{file.name} 里有像密钥的内容（{shown}…），不能发布。"
                "请删掉它；如果密钥是真的，还要去服务商那里作废。"
            )
        own = [
            str(path)
            for path in filter(None, (paths.ROOT, paths.home()))
            if len(path.parts) > 1 and re.search(re.escape(str(path)) + r"(?![\w.-])", text)
        ]
        if own or (personal := _HOMES.search(text)):
            raise CourseError(
                f"{file.name} 里有这台机器上的路径 {own[0] if own else personal[0]}，会泄露用户名，不能发布。"
                "请把它改成模型名或删掉。"
            )
    if file.suffix == ".json" and _is_training_data(raw):
        raise CourseError(f"{file.name} 看起来是训练数据（里面有对话），不能和模型一起发布。请把它移走。")


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    return raw.decode("utf-8", errors="replace").replace("\0", "")  # UTF-16 without its mark


def _views(text: str, depth: int = _DEPTH) -> Iterator[str]:
    """Yield a text, and what it says when its encodings are undone."""
    yield text
    if not text.isascii() and (plain := _plain(text)) != text:
        yield plain
    if not depth:
        return
    unescaped = _ESCAPE.sub(lambda m: m[3] or chr(int(m[1] or m[2], 16)), text) if "\\" in text else text
    for other in (unescaped, html.unescape(text), unquote(text)):
        if other != text:
            yield from _views(other, depth - 1)
    hidden = []
    for word in (re.sub(_BREAK, "", word) for word in _BASE64.findall(text)):
        for at in range(4):  # it may begin behind other letters
            data = word[at:].rstrip("=")
            data = data[: len(data) - (len(data) % 4 == 1)]  # one letter alone is no byte
            hidden.append(
                base64.urlsafe_b64decode(data.translate(str.maketrans("+/", "-_")) + "=" * (-len(data) % 4))
            )
    hidden += [binascii.unhexlify(re.sub(_BREAK, "", word)) for word in _HEX.findall(text)]
    plain = (data.replace(b"\0", b"") for data in hidden)  # UTF-16
    said = [run.decode(errors="replace") for data in plain for run in _PRINTABLE.findall(data)]
    if said:
        yield from _views("\n".join(said), depth - 1)


def _plain(text: str) -> str:
    """Return a text with ASCII letters for their full-width kin, and without characters that nobody sees.

    A full-width colon stays: in "https://example.com：写信给 a@b.cn" another one would begin a password.

    >>> _plain("ｓｋ-\\u200b１：２")
    'sk-1：2'
    """
    return "：".join(unicodedata.normalize("NFKC", part) for part in _UNSEEN.sub("", text).split("："))


def _head(file: Path) -> bytes:
    """Return what of a file can hold text; of weights, that is what stands before the numbers."""
    if file.suffix == ".safetensors":
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            return opened.read(min(length, _MOST_HEADER))
    if file.suffix == ".gguf":
        with file.open("rb") as opened:
            return opened.read(_end_of_gguf_header(file))
    return file.read_bytes()


# A header of a stranger can promise 2^60 entries: the reader works in a process that may be stopped.
_READ_GGUF = """
import resource, sys
size = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 30),) * 2)
import gguf
found = gguf.GGUFReader(sys.argv[1])
end = max(int(t.data_offset) + int(t.n_bytes) for t in found.tensors)
print(found.data_offset, end)
"""


def _end_of_gguf_header(file: Path, seconds: float = 120) -> int:
    size = file.stat().st_size
    broken = CourseError(f"{file.name} 不完整，或不是 GGUF 文件。请重新导出。")
    command = [sys.executable, "-c", _READ_GGUF, str(file), str(size)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise broken from None
    if done.returncode:
        raise broken
    start, end = map(int, done.stdout.split())
    if not start <= end <= size < end + 1024:  # padding, and nothing else
        raise CourseError(f"{file.name} 的张量之后还有 {size - end} 字节别的内容，不能发布。请重新导出。")
    return min(start, _MOST_HEADER)


def _is_training_data(text: bytes) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    rows = value if isinstance(value, list) else [value]
    return any(
        isinstance(row, dict) and {"conversation", "messages", "instruction"} & row.keys() for row in rows
    )
