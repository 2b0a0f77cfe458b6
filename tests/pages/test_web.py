"""The web demo in a real browser: small models that know one answer by heart, and the course's own."""

import re
import urllib.request
from urllib.error import HTTPError

import parrots
import pytest
import tiny_models
from PIL import Image
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from tianji_helpers import wishes
from tianji_helpers.seeing import cards
from tianji_helpers.training import inference

PIECES = ("<img src=x onerror=alert(1)> ", "**祝** ", "[福](javascript:alert(1)) ", "$x$ ", ":red[您] ", "😀")
SAID = "".join(PIECES)
ROUND = ("祝你", "生日", "快乐，")  # the base model goes round in circles

# notes the text of each answer at each change of the page
WATCH = """
window.seen = [];
new MutationObserver(() => window.seen.push(
  [...document.querySelectorAll('.wish')].map(wish => wish.innerText)
)).observe(document, {childList: true, subtree: true, characterData: true});
"""


expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def demo(serve, tmp_path_factory):
    """The page with a slow base model and two adapters on it, which answer differently."""
    folder = tmp_path_factory.mktemp("web")
    base = parrots.teach(folder / "base", ROUND, ends=False, others=PIECES, layers=6)
    whole = parrots.retrain(folder / "whole", base, PIECES[0])
    short = parrots.retrain(folder / "short", base, PIECES[-1])
    with serve("web", base, "--adapter", f"整句={whole}", "--adapter", f"一个字={short}") as url:
        yield url


def ready(page, url):
    """Open the page and wait until the model is loaded."""
    page.add_init_script(WATCH)
    page.goto(url)
    expect(send(page)).to_be_visible(timeout=60_000)
    return page


def send(page):
    return page.get_by_role("button", name="送祝福", exact=True)


def choose(page, label, option):
    """Pick an option; the list closes again if the page happens to be drawn anew meanwhile."""
    wanted = page.get_by_role("option", name=option, exact=True)
    for _ in range(20):
        page.get_by_role("combobox", name=label).click()
        try:
            wanted.click(timeout=3_000)
        except PlaywrightTimeout:
            page.keyboard.press("Escape")
        else:
            return
    raise AssertionError(f"the list of {label} does not stay open")


def style(page, name):
    page.get_by_role("radio", name=name, exact=True).click()


def compare(page):
    page.get_by_text("前后对比").click()


def sound(page):
    """Check that the page shows no traceback and no error."""
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlert")).to_have_count(0)
    assert "Traceback" not in page.content()


def test_loading_is_shown_then_a_picked_wish_comes_as_text(page, demo):
    dialogs = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.goto(demo)
    expect(page.get_by_text("正在加载模型")).to_be_visible()
    ready(page, demo)
    choose(page, "送给谁", "姐姐")
    choose(page, "为了什么", "生日")
    style(page, "小红书")
    send(page).click()
    expect(page.get_by_role("button", name="复制")).to_be_visible()
    expect(page.locator(".asked").first).to_have_text("祝姐姐生日,小红书风格")
    # word for word: nothing in it has become an image, a link, bold type or a formula
    expect(page.locator(".wish")).to_have_text(SAID.strip())
    assert page.locator(".wish").inner_html() == SAID.replace("<", "&lt;").replace(">", "&gt;")
    assert not dialogs
    sound(page)


def test_the_answer_can_be_copied(page, demo):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ready(page, demo)
    send(page).click()
    page.get_by_role("button", name="复制").click()
    expect(page.get_by_role("button", name="已复制")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == SAID


def test_before_and_after_stream_in_side_by_side_then_history(page, demo):
    ready(page, demo)
    compare(page)
    send(page).click()
    expect(page.get_by_role("button", name="复制")).to_have_count(2)
    before, after = page.locator(".wish").all()
    expect(before).to_have_text(re.compile("^(祝你生日快乐，){10,}"))
    expect(after).to_have_text(SAID.strip())
    lengths = {len(texts[0]) for texts in page.evaluate("window.seen") if texts}
    assert len(lengths) > 5, lengths  # it came in pieces
    left, right = before.bounding_box(), after.bounding_box()
    assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 2
    compare(page)  # off again
    style(page, "严肃")
    send(page).click()
    expect(page.get_by_text("之前的祝福（1）")).to_be_visible()
    page.get_by_text("之前的祝福（1）").click()
    expect(page.locator(".wish.old")).to_have_count(2)
    page.get_by_role("button", name="清空").click()
    expect(page.locator(".wish.old")).to_have_count(0)
    sound(page)


def test_several_candidates(page, demo):
    ready(page, demo)
    page.get_by_text("生成设置").click()
    page.get_by_role("slider", name="写几句来挑").press("End")
    send(page).click()
    expect(page.get_by_role("button", name="复制")).to_have_count(4)
    sound(page)


def test_a_narrow_screen_needs_no_sideways_scrolling(page, demo):
    page.set_viewport_size({"width": 390, "height": 844})
    ready(page, demo)
    compare(page)
    send(page).click()
    expect(page.get_by_role("button", name="复制")).to_have_count(2)
    before, after = (wish.bounding_box() for wish in page.locator(".wish").all())
    assert before["y"] + before["height"] <= after["y"]
    assert before["x"] >= 0 and before["x"] + before["width"] <= 390
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    main = page.get_by_test_id("stMain")
    assert main.evaluate("main => main.scrollWidth <= main.clientWidth")


def test_two_tabs_at_once_both_get_their_answers(page, demo):
    ready(page, demo)
    with page.context.browser.new_context() as other:
        second = ready(other.new_page(), demo)
        page.get_by_text("生成设置").click()
        page.get_by_role("slider", name="最多多少个词元").press("End")
        compare(page)
        send(page).click()
        expect(page.locator(".wish .caret")).to_be_visible()
        send(second).click()
        for tab, answers in ((second, 1), (page, 2)):
            expect(tab.get_by_role("button", name="复制")).to_have_count(answers)
            expect(tab.locator(".wish").last).to_have_text(SAID.strip())
            sound(tab)
        waits = [text for texts in second.evaluate("window.seen") for text in texts if "排队" in text]
        assert waits and "前面还有 1 位" in waits[0]


def test_who_changes_their_mind_gets_the_model_back_at_once(page, demo):
    ready(page, demo)
    compare(page)
    send(page).click()
    expect(page.locator(".wish .caret")).to_be_visible()
    style(page, "严肃")  # in the middle of the answer
    expect(page.locator(".wish")).to_have_count(0)
    compare(page)
    send(page).click()
    expect(page.locator(".asked").first).to_contain_text("严肃风格")
    expect(page.locator(".wish")).to_have_text(SAID.strip())
    sound(page)


def test_a_very_long_request_is_refused_in_words_and_odd_ones_are_answered(page, demo):
    ready(page, demo)
    page.get_by_role("radio", name="自己写").click()
    box = page.get_by_role("textbox", name="想说的话")
    box.fill("祝" * 50_000)
    send(page).click()
    expect(page.get_by_test_id("stAlert")).to_contain_text("这句话有 50000 个字，最多 300 个")
    assert "Traceback" not in page.content()
    for text in (
        "<script>alert(1)</script>",
        "<b>\n</b>",
        "\u202e{{7*7}} $\\frac{1}{0}$",
    ):
        box.fill(text)
        send(page).click()
        expect(page.locator(".asked").first).to_have_text(text, use_inner_text=True)
        expect(page.get_by_role("button", name="复制").first).to_be_visible()
        sound(page)


def test_a_story_of_ones_own_goes_into_the_request(page, demo):
    ready(page, demo)
    choose(page, "送给谁", "姐姐")
    page.get_by_role("textbox", name="还想说的事").fill(" 她刚考上研究生,30字以内 ")
    send(page).click()
    expect(page.locator(".asked").first).to_have_text("祝姐姐生日,她刚考上研究生,30字以内")
    expect(page.get_by_role("button", name="复制")).to_be_visible()
    sound(page)


def test_adapters_are_picked_on_the_page(page, demo):
    ready(page, demo)
    page.get_by_role("radio", name="一个字").click()
    send(page).click()
    expect(page.locator(".asked b")).to_have_text("一个字")
    expect(page.locator(".wish")).to_have_text(PIECES[-1])
    page.get_by_role("radio", name="整句").click()
    send(page).click()
    expect(page.locator(".asked b").first).to_have_text("整句")
    expect(page.locator(".wish").first).to_have_text(SAID.strip())


def test_a_picture_is_sent_seen_small_and_answered(page, serve, tmp_path):
    folder = tiny_models.give_eyes(parrots.teach(tmp_path / "seeing", PIECES))
    cards.draw("生日").save(tmp_path / "card.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with serve("web", folder) as url:
        ready(page, url)
        place = page.get_by_test_id("stFileUploaderDropzoneInput")
        place.set_input_files(tmp_path / "card.png")
        expect(page.get_by_test_id("stImage").locator("img")).to_be_visible()
        expect(page.get_by_role("combobox", name="为了什么")).to_have_count(0)
        send(page).click()
        expect(page.locator(".wish")).to_have_text(SAID.strip())
        expect(page.locator(".asked").first).to_contain_text("🖼 给")
        sound(page)
        place.set_input_files(tmp_path / "bomb.png")
        expect(page.get_by_test_id("stAlert")).to_contain_text("像素")
        expect(page.get_by_test_id("stException")).to_have_count(0)
        for host in (None, "evil.example"):  # another page's script, or another name of this machine
            sent = urllib.request.Request(f"{url}/_stcore/upload_file/a/b", b"x", method="PUT")
            if host:
                sent.add_header("Host", host)
            with pytest.raises(HTTPError, match="403"):
                urllib.request.urlopen(sent, timeout=30)


WISH = "姐姐生日快乐呀，愿你天天开心🎂"


@pytest.fixture(scope="module")
def learned(base_dir, tmp_path_factory):
    """A LoRA adapter that has learned one answer by heart, on the course's own base model."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, tokenizer = inference.load(base_dir, dtype="float32")
    asked = inference.messages("祝姐姐生日,小红书风格", wishes.SYSTEM)
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)
    answer = [*tokenizer.encode(WISH, add_special_tokens=False), tokenizer.eos_token_id]
    ids, labels = torch.tensor([prompt + answer]), torch.tensor([[-100] * len(prompt) + answer])
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"])).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    for _ in range(60):
        loss = model(input_ids=ids, labels=labels).loss
        if loss < 0.02:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("learned")
    model.save_pretrained(folder)
    return folder


def test_the_real_model_answers_before_and_after(page, serve, base_dir, learned):
    with serve("web", base_dir, "--adapter", f"学过的={learned}") as url:
        ready(page, url)
        choose(page, "送给谁", "姐姐")
        choose(page, "为了什么", "生日")
        style(page, "小红书")
        page.get_by_text("生成设置").click()
        page.get_by_role("slider", name="温度").press("Home")
        length = page.get_by_role("slider", name="最多多少个词元")
        length.press("Home")
        length.press("ArrowRight")
        send(page).click()
        expect(page.get_by_role("button", name="复制")).to_have_count(1)
        expect(page.locator(".wish")).to_have_text(WISH)
        lengths = {len(texts[0]) for texts in page.evaluate("window.seen") if texts}
        assert len(lengths) > 3, lengths  # it came in pieces
        compare(page)
        send(page).click()
        expect(page.get_by_role("button", name="复制").nth(1)).to_be_visible()
        expect(page.locator(".wish:not(.old)")).to_have_count(2)
        before, after = page.locator(".wish:not(.old)").all()
        expect(after).to_have_text(WISH)
        expect(before).to_contain_text("祝")
        expect(before).not_to_have_text(WISH)
        sound(page)
