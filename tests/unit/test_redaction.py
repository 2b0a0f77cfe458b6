"""Keys, tokens and passwords of the machine are taken out of what others say, in whatever form."""

import base64
import json
import time
from urllib.parse import quote

import pytest

from tianji_helpers import hubs, paths, redaction
from tianji_helpers.errors import CourseError

KEY = "sk-Ab3/dE+f6Gh9-Kl2Mn5Pq8St1Vw4"


@pytest.fixture(autouse=True)
def key(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # no .env there
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)


def basic(before):
    return base64.b64encode(f"{before}{KEY}".encode()).decode()


def some(escape):
    """Spell every sixth letter, so that no eight in a row stand as they are."""
    return "".join(c if n % 6 else escape.format(ord(c)) for n, c in enumerate(KEY))


FORMS = {
    "plain": KEY,
    "capitals": KEY.upper(),
    "url": quote(KEY, safe=""),
    "whole url": "".join(f"%{byte:02X}" for byte in KEY.encode()),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "url-safe base64": base64.urlsafe_b64encode(KEY.encode()).decode(),
    "basic": basic("u:"),
    "longer basic": basic("me:"),
    "hex": KEY.encode().hex(),
    "json": json.dumps("".join(f"\\u{ord(c):04x}" for c in KEY))[1:-1].replace("\\\\", "\\"),
    "html": "".join(f"&#{ord(c)};" for c in KEY),
    "html hex": "".join(f"&#x{ord(c):X};" for c in KEY),
    "html, with zeros": "".join(f"&#{ord(c):05d};" for c in KEY),
    "html, some letters": some("&#{};"),
    "json, some letters": some("\\u{:04x}"),
    "url, some letters, twice": some("%25{:02x}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_key_is_left(form):
    text = f"Bearer“{FORMS[form]}”is wrong: 祝您 {FORMS[form]}"
    hidden = redaction.hide(text)
    assert redaction.MARK in hidden and "is wrong: 祝您 " in hidden
    for at in range(len(FORMS[form]) - 12):
        assert FORMS[form][at : at + 12] not in hidden
    assert FORMS[form] not in str(CourseError(text))


@pytest.mark.parametrize("cut", [KEY[:12], KEY[-9:], KEY[5:20], f"{KEY[:10]}...{KEY[-10:]}"])
def test_a_cut_key_is_hidden_too(cut):
    assert KEY[:8] not in redaction.hide(cut) and KEY[-8:] not in redaction.hide(cut)
    assert redaction.hide(f"x {cut} y").startswith("x ***")


def test_what_is_no_secret_stays(monkeypatch):
    text = "Incorrect API key provided: sk-xxxx***. 祝姐姐生日快乐🎂 https://example.com/v1/chat/completions"
    assert redaction.hide(text) == text
    monkeypatch.setenv("LESSON_KEY", "short")
    assert redaction.hide("a short text") == "a short text"


def test_secrets_come_from_the_environment_dotenv_and_proxies(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("MODELSCOPE_API_TOKEN=ms-of-the-file\nHOST=not-a-secret-at-all\n")
    monkeypatch.setenv("HTTPS_PROXY", "http://ming:geheim%40123@proxy.example:8080")
    assert {KEY, "ms-of-the-file", "geheim@123"} <= set(redaction.secrets())
    assert "not-a-secret-at-all" not in redaction.secrets()
    assert redaction.hide("ms-of-the-file geheim@123") == "*** ***"


def test_an_address_shows_no_password():
    address = "http://ming:geheim-123@127.0.0.1:9/v1?key=geheim-456#geheim"
    assert redaction.shown(address) == "http://127.0.0.1:9/v1"
    with pytest.raises(CourseError) as caught:
        hubs.check_address(address, "base_url")
    assert "geheim" not in str(caught.value) and "127.0.0.1:9/v1" in str(caught.value)
    hubs.check_address("http://127.0.0.1:9/v1", "base_url")


def test_a_long_answer_costs_little():
    text = "祝您生日快乐，happy birthday to you! " * 20
    start = time.process_time()
    for _ in range(100):
        redaction.hide(text)
    assert time.process_time() - start < 1  # of 100; measured: 0.05
