"""Generation end to end: nothing lost, nothing sent twice, errors that stop where they should."""

import asyncio
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import sqlite3
import threading
import time
from dataclasses import replace

import pytest
from phrasebook.server import PhrasebookTeacher
from synthesis_teachers import FAULTS, FaultyTeacher, RecordingTeacher, run_child

from tianji_helpers import faults, paths, records, thoughts, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import (
    Price,
    client,
    ensure_rounds,
    ensure_teachers,
    preview,
    prompts,
    providers,
    recordings,
    round_files,
    synthesize,
)
from tianji_helpers.synthesis.journal import Journal, key_of

# children that a test may kill start from a clean process that has everything imported already
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["synthesis_teachers"])
KEY = "sk-0123456789.secretsecret"


def run(teacher, folder, provider="offline", **options):
    options = {"styles": ["正常"], "limit": 20, "progress": False} | options
    return synthesize(provider, base_url=teacher.base_url, output_dir=folder, **options)


def stored(folder):
    """The requests that the journal of a run holds."""
    with Journal(paths.stage_dir("01", folder) / "journal.sqlite") as journal:
        return {row[0] for row in journal._base.execute("SELECT request FROM answers")}


def start(folder, teacher, limit=60, **options):
    child = PROCESSES.Process(target=run_child, args=(folder, teacher.base_url, limit), kwargs=options)
    child.start()
    return child


def wait_for(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def under_way():
    """Return the threads of teachers that have a connection."""
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


def test_a_full_round_follows_the_data_contract(tmp_path):
    began = time.process_time()
    summary = synthesize(styles=["小红书"], output_dir=tmp_path, progress=False)
    assert time.process_time() - began < 10
    matrix = wishes.load()
    pairs = matrix.pairs()
    assert summary.done == summary.answered == summary.sent == len(pairs) and not summary.failures
    assert summary.unsuitable == len(matrix.usual_recipients) * len(matrix.usual_scenes) - len(pairs)
    (file,) = summary.files
    assert re.fullmatch(r"wishes_小红书_\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.json", file.name)
    rows = records.read_conversations(file, records.RAW_FIELDS)
    assert [(row["recipient"], row["scene"]) for row in rows] == pairs
    row = rows[0]
    assert row["system"] == wishes.SYSTEM and row["style_name"] == "小红书"
    assert row["input"] == "祝赵老师生日,小红书风格" and "对象：赵老师" in row["src_input"]
    assert (row["provider"], row["model"]) == ("offline", "recorded-large")
    assert row["completion_tokens"] == len(row["output"]) and row["prompt_tokens"] > 0
    assert len({row["request"] for row in rows}) == len(rows)
    assert file.read_text(encoding="utf-8") == json.dumps(
        records.read_json(file), ensure_ascii=False, indent=4
    )
    provenance = records.read_json(records.provenance_path(file))
    assert provenance["parameters"]["seed"] == 42 and provenance["counts"]["rows"] == len(rows)
    assert provenance["sha256"] == records.sha256(file)


def test_a_second_line_of_an_answer_is_kept(tmp_path):
    with PhrasebookTeacher() as teacher:
        (file,) = run(teacher, tmp_path, limit=None).files
    assert any("\n" in row["output"].strip() for row in records.read_conversations(file))


def test_running_again_sends_nothing_and_writes_no_second_file(tmp_path, teacher):
    first = run(teacher, tmp_path)
    before = [file.read_bytes() for file in first.files]
    again = run(teacher, tmp_path)
    assert (again.sent, again.reused, again.answered) == (0, 20, 0)
    assert again.files == first.files == round_files(tmp_path)
    assert [file.read_bytes() for file in again.files] == before
    assert len(teacher.bodies) == 20


def test_a_limit_then_all_fills_the_same_file(tmp_path, teacher):
    few = run(teacher, tmp_path, limit=15)
    more = run(teacher, tmp_path, limit=40)
    assert (more.reused, more.sent) == (15, 25) and more.files == few.files
    assert max(teacher.asked.values()) == 1
    run(teacher, tmp_path, limit=5)  # asking for less takes nothing away
    assert len(records.read_conversations(more.files[0])) == 40


def test_rounds_and_parameters_have_files_of_their_own(tmp_path, teacher):
    summary = run(teacher, tmp_path, rounds=2, styles=["正常", "严肃"], limit=5)
    assert len(set(summary.files)) == 4 and summary.answered == 20
    outputs = [[row["output"] for row in records.read_conversations(file)] for file in summary.files]
    assert outputs[0] != outputs[1]
    other = run(teacher, tmp_path, limit=5, temperature=0.5)
    assert other.sent == 5 and not set(other.files) & set(summary.files)
    assert len(round_files(tmp_path)) == 5


def test_another_seed_gives_other_wishes_and_the_same_seed_the_same(tmp_path, teacher):
    def outputs(name, seed):
        files = run(teacher, tmp_path / name, seed=seed).files
        return [row["output"] for row in records.read_conversations(files[0])]

    first = outputs("a", 1)
    assert first == outputs("b", 1)
    assert first != outputs("c", 2)


def test_it_works_inside_a_running_event_loop(tmp_path, teacher):
    async def cell():
        return run(teacher, tmp_path)

    assert asyncio.run(cell()).answered == 20


def test_the_temperature_is_on_the_wire_and_not_in_a_message(tmp_path, teacher):
    run(teacher, tmp_path, temperature=0.3, max_tokens=77)
    for body in teacher.bodies:
        assert body["temperature"] == 0.3 and body["max_tokens"] == 77 and isinstance(body["seed"], int)
        assert "temperature" not in json.dumps(body["messages"])


def test_the_small_teacher_is_stopped_where_it_goes_on_and_on(tmp_path, teacher, monkeypatch):
    """It is known to repeat itself; how long a wish may become follows from the length that is asked for."""
    known = providers.PROVIDERS["embedded"]
    asked = {"provider": "embedded", "styles": ["正常", "祝福长文"], "limit": 2}

    def bounds():
        return [body["max_tokens"] for body in teacher.bodies]

    monkeypatch.setitem(providers.PROVIDERS, "embedded", replace(known, model=recordings.LARGE, longest=0))
    run(teacher, tmp_path, **asked)
    assert bounds() == [512] * 4
    monkeypatch.setitem(providers.PROVIDERS, "embedded", replace(known, model=recordings.LARGE))
    assert run(teacher, tmp_path, **asked).reused == 4, "the answers of before count"
    run(teacher, tmp_path / "bound", **asked)
    assert sorted(bounds()[4:]) == [96, 96, 512, 512]
    run(teacher, tmp_path / "own", **asked, max_tokens=600)
    assert bounds()[8:] == [600] * 4
    few = prompts.build_asked(wishes.load(), "祝妈妈生日快乐，不超过5个字")
    assert client._bound(known, client.Settings("embedded"), few) == {"max_tokens": 64}


def test_each_slot_of_the_small_teacher_goes_through_neighbours(tmp_path, monkeypatch):
    known = replace(providers.PROVIDERS["embedded"], model=recordings.LARGE)
    monkeypatch.setitem(providers.PROVIDERS, "embedded", known)
    with RecordingTeacher(dirt_share=0.0, latency=0.05) as teacher:
        run(teacher, tmp_path, provider="embedded", styles=["正常"], limit=80, concurrency=2)
    asked = [body["messages"][-1]["content"] for body in teacher.bodies]
    order = sorted(asked)
    # the second slot's stretch begins long before the first one's ends
    assert len(asked) == 80 and asked.index(order[0]) < 20 > asked.index(order[32])


def test_all_rows_come_right_through_thirty_percent_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_BACK_OFF", (0.01, 0.05))
    with FaultyTeacher(0.3, stall=2.5, dirt_share=0.0) as teacher:
        summary = run(teacher, tmp_path, limit=150, timeout=2, tries=12, concurrency=16)
    assert not summary.failures and summary.answered == 150
    assert all(teacher.done[fault] for fault in FAULTS), teacher.done
    # on a busy machine one may time out before it has arrived
    assert summary.sent >= sum(teacher.done.values()) > 150
    matrix = wishes.load()
    rows = records.read_conversations(summary.files[0])
    assert len(rows) == 150
    for row in rows:
        assert not faults.find(matrix.read(row["input"]), row["output"])


@pytest.mark.parametrize("fault", ["500", "length", "empty", "no_choices", "truncate", "drop"])
def test_a_failure_is_reported_not_stored_and_tried_again_later(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(client, "_BACK_OFF", (0.01, 0.05))
    with FaultyTeacher(1.0, stall=0, dirt_share=0.0) as teacher:
        monkeypatch.setattr("synthesis_teachers.FAULTS", (fault,))
        bad = run(teacher, tmp_path, limit=3, tries=2)
        assert len(bad.failures) == 3 and bad.done == 0 and bad.sent == 6 and bad.files == []
        assert all("试了 2 次" in failure.error for failure in bad.failures)
        assert stored(tmp_path) == set()
        teacher.share = 0.0
        assert run(teacher, tmp_path, limit=3).answered == 3


def test_a_refused_prompt_fails_alone(tmp_path, teacher):
    def answer(body):
        if "对象：爷爷" in body["messages"][1]["content"]:
            return 400, {}, {"error": {"message": "Content Exists Risk"}}
        return RecordingTeacher.reply(teacher, body)

    teacher.reply = answer
    summary = run(teacher, tmp_path, limit=0)
    assert {failure.where.split(" × ")[0] for failure in summary.failures} == {"爷爷"}
    assert summary.sent == summary.prompts  # each sent once
    assert summary.answered == summary.prompts - len(summary.failures)


def spoilt(teacher, change, every=7):
    """Have the teacher send something else than its completion, every so many requests."""
    count = itertools.count(1)

    def answer(body):
        status, headers, payload = RecordingTeacher.reply(teacher, body)
        return status, headers, payload if next(count) % every else change(payload)

    teacher.reply = answer
    return teacher


@pytest.mark.parametrize(
    ("content", "words"),
    [("姐姐，生日快乐，平安喜乐！\ud83d", "半个字符"), ("<think>先想想怎么写", "只思考"), (None, "空的")],
)
def test_an_answer_that_cannot_be_kept_fails_alone(tmp_path, teacher, content, words):
    """Of 32 that are paid and under way at once, none is lost because of another."""

    def change(payload):
        payload["choices"][0]["message"]["content"] = content
        return payload

    teacher.latency = 0.02
    summary = run(spoilt(teacher, change), tmp_path, limit=100, concurrency=32, tries=1)
    assert len(summary.failures) == 14 and summary.answered == 86 == len(stored(tmp_path))
    assert all(words in failure.error for failure in summary.failures)
    teacher.reply = lambda body: RecordingTeacher.reply(teacher, body)
    again = run(teacher, tmp_path, limit=100)
    assert again.reused == 86 and again.done == 100


def test_thoughts_are_taken_off_and_told(tmp_path, teacher):
    def think(payload):
        message = payload["choices"][0]["message"]
        message["content"] = f"<think>\n先写称呼，再祝福。\n</think>\n\n{message['content']}"
        return payload

    summary = run(spoilt(teacher, think, every=1), tmp_path, limit=5)
    assert summary.thoughtful == summary.answered == 5
    assert "从 5 个回答里去掉了思考的部分" in str(summary)
    (file,) = summary.files
    assert not any("think" in row["output"] for row in records.read_conversations(file))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think></think>\n\n好", "好"),
        ("先想想</think>好", "好"),  # the server kept the opening mark
        ("<Thinking>一</Thinking>\n<think>二</think> 好", "好"),
        ("<seed:think>一</seed:think>好", "好"),
        ("◁think▷一◁/think▷好", "好"),
        ("<|begin_of_thought|>一<|end_of_thought|>好", "好"),
        ("爱你<3", "爱你<3"),
    ],
)
def test_a_thought_is_known_by_its_marks(text, left):
    assert thoughts.without(text) == left
    assert bool(thoughts.find(text)) == (text != left)


@pytest.mark.slow
def test_some_failures_are_tolerated_and_said_and_many_are_not(tmp_path, teacher, capsys):
    def answer(body):
        status, headers, payload = RecordingTeacher.reply(teacher, body)
        if "对象：爷爷" in body["messages"][1]["content"]:
            payload["choices"][0]["finish_reason"] = "content_filter"
        return status, headers, payload

    teacher.reply = answer
    summary = run(teacher, tmp_path, limit=0, tries=1)
    summary.tolerate(0.1)
    shown = capsys.readouterr().out
    assert f"{summary.prompts} 条里有 {len(summary.failures)} 条" in shown and "爷爷 × " in shown
    with pytest.raises(CourseError, match=r"超过了容许的 1%(.|\n)*爷爷 × .*内容审查"):
        summary.tolerate(0.01)
    assert len(records.read_conversations(*summary.files)) == summary.answered


def test_a_rate_limit_pauses_everyone_for_as_long_as_asked(tmp_path, teacher):
    times = []

    def answer(body):
        times.append(time.monotonic())
        if len(times) == 1:
            return 429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}
        return RecordingTeacher.reply(teacher, body)

    teacher.reply, teacher.latency = answer, 0.02
    assert run(teacher, tmp_path, limit=40, concurrency=4).answered == 40
    quiet = max(later - earlier for earlier, later in itertools.pairwise(times))
    assert quiet > 0.8


@pytest.mark.parametrize(("status", "words"), [(401, "密钥"), (404, "base_url"), (402, "余额")])
def test_what_no_second_try_mends_stops_at_once(tmp_path, teacher, status, words):
    teacher.reply = lambda _: (status, {}, {"error": {"message": "no"}})
    with pytest.raises(CourseError, match=words):
        run(teacher, tmp_path, limit=0, concurrency=4)
    assert len(teacher.bodies) <= 4


def test_a_web_page_instead_of_an_answer_stops_at_once(tmp_path, teacher, monkeypatch):
    handler = teacher._server.RequestHandlerClass

    def send(self, *_):
        data = b"<html>welcome</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    monkeypatch.setattr(handler, "_send", send)
    with pytest.raises(CourseError, match=r"不是 API 的 JSON.*/v1"):
        run(teacher, tmp_path, limit=0, concurrency=4)
    assert len(teacher.bodies) <= 4


def test_nobody_at_the_address_stops_at_once(tmp_path):
    with pytest.raises(CourseError, match="连不上"):
        synthesize("local", model="m", base_url="http://127.0.0.1:9/v1", output_dir=tmp_path, progress=False)


def expiring(teacher, answers):
    """Have the teacher refuse the key after so many answers."""
    count = itertools.count()

    def answer(body):
        if next(count) >= answers:
            return 401, {}, {"error": {"message": "expired"}}
        return RecordingTeacher.reply(teacher, body)

    teacher.reply = answer


def test_the_answers_before_a_stop_are_in_the_round_file(tmp_path, teacher):
    expiring(teacher, 30)
    with pytest.raises(CourseError):
        run(teacher, tmp_path, limit=0, concurrency=4)
    (file,) = round_files(tmp_path)
    assert len(records.read_conversations(file)) == 30


def test_what_waits_for_a_slow_disk_is_kept_when_a_run_stops(tmp_path, teacher, monkeypatch):
    """A key that expires while one answer is being written, and others that are paid for wait."""
    original = Journal.add

    def slowly(self, answers):
        wait_for(lambda: len(teacher.bodies) > 12)
        time.sleep(0.1)  # the refusal arrives
        original(self, answers)

    monkeypatch.setattr(Journal, "add", slowly)
    expiring(teacher, 12)
    with pytest.raises(CourseError, match="密钥"):
        run(teacher, tmp_path, limit=0, concurrency=4)
    assert len(stored(tmp_path)) == 12


@pytest.mark.slow
def test_twenty_kills_then_resume(tmp_path):
    """Killed at any moment: while it starts, asks, writes; then one run completes it."""
    rng, finished = random.Random(0), set()
    with RecordingTeacher(dirt_share=0.0, latency=0.01) as teacher:
        for number in range(20):
            before = teacher.asked
            child = start(tmp_path, teacher, limit=400)
            if number % 4 == 0:
                time.sleep(rng.uniform(0.0, 0.1))
            else:
                enough = len(teacher.bodies) + rng.randrange(1, 20)
                wait_for(lambda enough=enough: len(teacher.bodies) >= enough)
            child.kill()
            child.join()
            assert child.exitcode == -signal.SIGKILL
            wait_for(lambda: not under_way())  # what was sent arrives, and is answered to nobody
            sent_again = {key for key, count in teacher.asked.items() if count > before[key]}
            assert not sent_again & finished
            assert finished <= (finished := stored(tmp_path))
        assert 50 < len(finished) < 400
        before = teacher.asked
        summary = run(teacher, tmp_path, limit=400)
        sent_again = {key for key, count in teacher.asked.items() if count > before[key]}
        assert not sent_again & finished and len(sent_again) == summary.sent
        assert summary.reused == len(finished) and summary.answered == 400 - len(finished)
        rows = records.read_conversations(summary.files[0])
        assert len(rows) == 400 == len({row["request"] for row in rows})
        assert len(round_files(tmp_path)) == 1


@pytest.mark.slow
def test_a_complete_round_has_its_file_while_the_next_is_asked(tmp_path):
    with RecordingTeacher(dirt_share=0.0, latency=0.05) as teacher:
        child = start(tmp_path, teacher, limit=40, styles=["正常", "严肃"])
        wait_for(lambda: round_files(tmp_path))
        child.kill()
        child.join()
        assert 40 <= len(teacher.bodies) < 80
    (file,) = round_files(tmp_path)
    assert len(records.read_conversations(file)) == 40
    assert file.name.startswith("wishes_正常_")


@pytest.mark.slow
def test_ctrl_c_waits_for_what_is_paid_and_then_stops(tmp_path):
    with RecordingTeacher(dirt_share=0.0, latency=0.3) as teacher:
        child = start(tmp_path, teacher)
        wait_for(lambda: len(teacher.bodies) >= 9)
        os.kill(child.pid, signal.SIGINT)
        child.join(300)
        assert child.exitcode not in (0, None)
        assert len(teacher.bodies) < 60
        assert stored(tmp_path) == set(teacher.asked)


def test_a_full_disk_stops_the_run_and_keeps_what_is_stored(tmp_path, teacher, monkeypatch):
    original = Journal._open

    def on_a_small_disk(self):
        original(self)
        self._base.execute("PRAGMA max_page_count = 12")

    monkeypatch.setattr(Journal, "_open", on_a_small_disk)
    with pytest.raises(CourseError, match="磁盘满了"):
        run(teacher, tmp_path, limit=0)
    monkeypatch.undo()
    finished, before = stored(tmp_path), teacher.asked
    assert 0 < len(finished) < len(before) < 400
    (file,) = round_files(tmp_path)
    assert {row["request"] for row in records.read_conversations(file)} == finished
    summary = run(teacher, tmp_path, limit=0)
    assert summary.reused == len(finished) and summary.done == summary.prompts
    assert all(teacher.asked[key] == before[key] for key in finished)


def test_a_damaged_journal_stops_the_run_before_anything_is_sent(tmp_path, teacher):
    file = paths.stage_dir("01", tmp_path) / "journal.sqlite"
    file.write_bytes(b"\xff" * 5000)
    with pytest.raises(CourseError, match="没有被改动"):
        run(teacher, tmp_path)
    assert teacher.bodies == [] and file.read_bytes() == b"\xff" * 5000


def test_a_preview_does_not_count_the_journal_for_each_prompt(tmp_path, teacher, monkeypatch):
    run(teacher, tmp_path, limit=10)
    monkeypatch.setattr(Journal, "__len__", lambda self: pytest.fail("counted"))
    assert preview(styles=["正常"], limit=10, output_dir=tmp_path).reused == 10


def test_a_changed_answer_in_the_journal_is_asked_for_again_and_told(tmp_path, teacher):
    run(teacher, tmp_path, limit=10)
    base = sqlite3.connect(paths.stage_dir("01", tmp_path) / "journal.sqlite")
    changed = base.execute("UPDATE answers SET answer = replace(answer, '祝', '咒') WHERE answer LIKE '%祝%'")
    base.commit()
    base.close()
    assert preview(styles=["正常"], limit=10, output_dir=tmp_path).reused == 10 - changed.rowcount < 10
    again = run(teacher, tmp_path, limit=10)
    assert again.sent == again.distrusted == changed.rowcount and again.done == 10
    assert f"{changed.rowcount} 个回答被改动过" in str(again)
    assert not any("咒" in row["output"] for row in records.read_conversations(*again.files))
    assert run(teacher, tmp_path, limit=10).distrusted == 0


def test_a_second_process_on_the_same_folder_is_refused(tmp_path, teacher):
    teacher.latency = 0.2
    first = start(tmp_path, teacher, limit=12)
    wait_for(lambda: teacher.bodies)
    with pytest.raises(CourseError, match="另一个程序正在用同一个输出文件夹"):
        run(teacher, tmp_path, limit=40)
    first.join(300)
    assert first.exitcode == 0 and len(teacher.bodies) == 12  # and the first one did not notice
    assert len(records.read_conversations(*round_files(tmp_path))) == 12


def test_the_limit_of_requests_a_minute_is_kept(tmp_path, teacher):
    times = []
    teacher.reply = lambda body: times.append(time.monotonic()) or RecordingTeacher.reply(teacher, body)
    assert run(teacher, tmp_path, limit=8, rpm=600).answered == 8  # one in 0.1 s
    assert times[-1] - times[0] > 0.65  # how they are spread is tested in test_limits.py, without a clock


def test_the_limit_of_tokens_a_minute_goes_by_what_the_server_counts(tmp_path, teacher):
    began = time.monotonic()
    summary = run(teacher, tmp_path, limit=10, concurrency=1, tpm=120_000)
    used = summary.prompt_tokens + summary.completion_tokens
    assert time.monotonic() - began > 0.85 * used * 9 / 10 / 2000


def test_refused_and_filtered_answers_are_paid_for_but_never_stored(tmp_path, monkeypatch):
    for fault, words in (("refusal", "模型拒绝回答：很抱歉"), ("filter", "内容审查拦下")):
        monkeypatch.setattr("synthesis_teachers.FAULTS", (fault,))
        with FaultyTeacher(1.0, stall=0, dirt_share=0.0) as teacher:
            bad = run(teacher, tmp_path, limit=3, tries=2, price=Price(10, 10, 20))
            assert [words in failure.error for failure in bad.failures] == [True] * 3
            assert stored(tmp_path) == set()
            seeds = sorted(body["seed"] for body in teacher.bodies)
            assert [later - first for first, later in zip(seeds[::2], seeds[1::2], strict=True)] == [1] * 3
            tokens = bad.prompt_tokens * 10 + bad.completion_tokens * 20
            assert bad.cost == pytest.approx(tokens / 1e6) and bad.cost > 0


def test_no_good_wish_is_taken_for_a_refusal():
    matrix, teacher = wishes.load(), PhrasebookTeacher()
    for style in matrix.styles:
        for prompt in prompts.build_round(matrix, style):
            _, _, payload = teacher.respond(
                {"model": "recorded-large", "messages": prompt.messages, "seed": prompt.seed}
            )
            assert not client._REFUSAL.search(payload["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "text",
    [
        "抱歉，我无法提供这样的内容。",
        "对不起，作为人工智能助手，我不能写这个。",
        "我是一个AI语言模型，没有情感。",
        "很遗憾，该请求涉及敏感内容。",
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I cannot",
        "无法生成该内容",
    ],
)
def test_a_refusal_is_known_by_its_words(text):
    assert client._REFUSAL.search(text)


def test_the_progress_line_tells_failures_and_cost(tmp_path, teacher, capfd):
    def answer(body):
        if len(teacher.bodies) % 4 == 0:
            return 400, {}, {"error": {"message": "Content Exists Risk"}}
        return RecordingTeacher.reply(teacher, body)

    teacher.reply = answer
    run(teacher, tmp_path, limit=20, progress=True, price=Price(0, 0, 1000))
    run(teacher, tmp_path, limit=20, progress=True)
    first, second = (line for line in capfd.readouterr().err.split("\n") if line)
    assert re.search(r"100%.*20/20 .*条/s, 失败 5，花费 0\.\d{4} 元", first)
    assert "20/20" in second and "花费 0.0000 元" in second


def test_the_usage_is_what_the_server_counted(tmp_path, teacher):
    def answer(body):
        status, headers, payload = RecordingTeacher.reply(teacher, body)
        payload["usage"] = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_cache_hit_tokens": 64}
        return status, headers, payload

    teacher.reply = answer
    summary = run(teacher, tmp_path, limit=10, price=Price(input=2, cached=0.5, output=8))
    assert (summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens) == (1000, 640, 70)
    assert summary.cost == pytest.approx((360 * 2 + 640 * 0.5 + 70 * 8) / 1e6)
    assert f"花费 {summary.cost:.4f} 元" in str(summary)


def test_a_broken_connection_later_on_is_tried_again(tmp_path, monkeypatch):
    """Only a server that never answered is a wrong address."""
    monkeypatch.setattr(client, "_BACK_OFF", (0.01, 0.05))
    with RecordingTeacher(dirt_share=0.0) as teacher:

        def answer(body):
            if len(teacher.bodies) == 5:
                threading.Thread(target=teacher.__exit__).start()
                time.sleep(0.2)
            return RecordingTeacher.reply(teacher, body)

        teacher.reply = answer
        monkeypatch.setattr(type(teacher), "__exit__", lambda *_: teacher._server.server_close())
        summary = run(teacher, tmp_path, limit=20, concurrency=1, tries=2, timeout=5)
    assert summary.answered >= 4 and not [f for f in summary.failures if "连不上" in f.error]


@pytest.mark.parametrize("name", ["zhipu", "deepseek"])
def test_no_key_in_any_file(tmp_path, teacher, monkeypatch, capfd, name):
    monkeypatch.setattr(client, "_BACK_OFF", (0.01, 0.05))
    monkeypatch.setenv(providers.PROVIDERS[name].key_name, KEY)
    calls = []

    def answer(body):  # a server that quotes the key in its errors
        calls.append(body)
        if len(calls) % 3 == 0:
            return 500, {}, {"error": {"message": f"no luck with {KEY}"}}
        return RecordingTeacher.reply(teacher, body)

    teacher.reply = answer
    summary = synthesize(
        name,
        styles=["正常"],
        limit=30,
        tries=2,
        output_dir=tmp_path,
        model="recorded-large",
        base_url=teacher.base_url,
    )
    assert summary.answered and any(KEY in header["authorization"] for header in teacher.headers)
    leaks = [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert leaks == []
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err + repr(summary)


def test_deepseek_is_told_not_to_think_and_gets_no_seed(tmp_path, teacher, monkeypatch):
    """Thinking is paid for, eats up max_tokens, and switches the temperature off."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
    options = {"limit": 2, "output_dir": tmp_path, "base_url": teacher.base_url, "progress": False}
    synthesize("deepseek", model="recorded-large", **options)
    for body in teacher.bodies:
        assert body["thinking"] == {"type": "disabled"} and "seed" not in body and body["temperature"] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"styles": ["朋克"]}, "不认识的风格：朋克。可用的有：正常、小红书、严肃、文艺"),
        ({"styles": []}, "一个也没有"),
        ({"rounds": 0}, "rounds=0"),
        ({"limit": -1}, "limit=-1"),
        ({"limit": "5"}, "limit='5'"),
        ({"temperature": "1"}, "temperature='1'"),
        ({"concurrency": -1}, "concurrency=-1"),
        ({"rpm": -1}, "rpm=-1"),
        ({"tpm": 1.5}, "tpm=1.5"),
        ({"temperature": 3.0}, "temperature=3.0"),
        ({"tries": 0}, "tries=0"),
        ({"provider": "gpt"}, "没有叫 gpt 的"),
    ],
)
def test_bad_parameters_are_named_before_anything_happens(tmp_path, options, words):
    with pytest.raises(CourseError, match=re.escape(words)):
        synthesize(**{"output_dir": tmp_path / "never"} | options)
    assert not (tmp_path / "never").exists()


def test_preview_counts_without_sending(tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)  # none is needed
    options = {"styles": ["正常", "小红书"], "rounds": 2, "output_dir": tmp_path / "never"}
    shown = preview("deepseek", examples=3, **options)
    matrix = wishes.load()
    pairs = len(matrix.pairs())
    assert shown.unsuitable == len(matrix.usual_recipients) * len(matrix.usual_scenes) - pairs
    assert shown.prompts == 4 * pairs and shown.reused == 0
    assert len(shown.examples) == 3 and not (tmp_path / "never").exists()
    price = client.prices.find("deepseek", "deepseek-flash")
    assert shown.cost == price.cost(shown.prompt_tokens, shown.completion_tokens) > 0
    assert preview(limit=7).prompts == 21 and preview("deepseek", model="new").cost is None


def test_preview_leaves_out_what_is_paid_already(tmp_path, teacher):
    run(teacher, tmp_path, limit=15)
    shown = preview(styles=["正常"], limit=40, output_dir=tmp_path)
    assert (shown.prompts, shown.reused) == (40, 15) and "要发 25 个请求" in str(shown)


def test_the_estimate_is_near_to_what_the_run_uses(tmp_path, teacher):
    """The teacher counts characters; a Chinese one is about 0.6 of a token."""
    shown = preview(styles=["正常"], limit=100, output_dir=tmp_path)
    used = run(teacher, tmp_path, limit=100)
    assert shown.prompt_tokens == pytest.approx(0.6 * used.prompt_tokens, rel=0.15)
    assert shown.completion_tokens == pytest.approx(0.6 * used.completion_tokens, rel=0.25)


def test_the_extra_styles_are_made_when_they_are_named(tmp_path):
    matrix = wishes.load()
    extra = [style for style in matrix.styles if style not in matrix.usual_styles]
    summary = synthesize(styles=extra, limit=12, output_dir=tmp_path, progress=False)
    assert summary.answered == 12 * 6 and not summary.failures
    rows = [row for file in summary.files for row in records.read_conversations(file)]
    good = [not faults.find(matrix.read(row["input"]), row["output"]) for row in rows]
    assert sum(good) >= 0.7 * len(rows)
    for row in rows:
        style = matrix.styles[row["style_name"]]
        assert f"请写{style.form}祝福" in row["src_input"]
        assert f"{style.min_chars} 到 {style.max_chars} 个字" in row["src_input"]


@pytest.mark.slow
def test_ensure_rounds_makes_what_is_missing_and_says_so(tmp_path, capsys):
    files = ensure_rounds(tmp_path)
    assert "先请离线老师（录音）来写" in capsys.readouterr().out
    assert {file.name.split("_")[1] for file in files} == {"正常", "小红书", "严肃"}
    assert ensure_rounds(tmp_path) == sorted(files)
    assert capsys.readouterr().out == ""
    both = {who: round_files(folder.parent) for who, folder in ensure_teachers(tmp_path).items()}
    assert both["large"] == sorted(files) and len(both["small"]) == 3


def test_the_client_is_used_by_every_answer(tmp_path, teacher):
    """The journal's keys are the hashes of what really went over the wire."""
    run(teacher, tmp_path)
    assert stored(tmp_path) == {key_of("offline", 1, body) for body in teacher.bodies}


def test_requests_in_somebodys_own_words_are_asked_as_they_are(tmp_path):
    asked = (paths.DATA / "wishes" / "requests.txt").read_text(encoding="utf-8").splitlines()[:12]
    summary = synthesize(requests=["", *asked, asked[0]], output_dir=tmp_path, progress=False)
    assert (summary.prompts, summary.answered, summary.failures) == (12, 12, [])
    (file,) = summary.files
    assert file.name.startswith("wishes_请求_")
    rows = records.read_conversations(file, records.RAW_FIELDS)
    assert [row["input"] for row in rows] == asked
    for row in rows:
        request = wishes.load().read(row["input"])
        assert (row["recipient"], row["scene"], row["style_name"]) == (*request.pair, request.style)
        assert request.details in row["src_input"] and request.address in row["src_input"]
        if request.max_chars:
            assert f"到 {request.max_chars} 个字" in row["src_input"]
    assert not synthesize(requests=asked, output_dir=tmp_path, progress=False).sent


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["祝姐姐生日快乐", "你好"], "第 2 行.*看不出对象和场景"),
        (["祝姐姐生日快乐,朋克风格"], "第 1 行.*朋克.*小红书"),
        (["", " "], "没有一条请求"),
    ],
)
def test_a_request_that_cannot_be_asked_is_named_with_its_line(tmp_path, lines, words):
    with pytest.raises(CourseError, match=words):
        synthesize(requests=lines, output_dir=tmp_path, progress=False)
    assert not list(tmp_path.rglob("journal.sqlite"))


def test_a_story_of_ten_thousand_characters_goes_out_whole(tmp_path, teacher):
    story = "她养了一只<b>猫</b>" * 1000
    summary = run(teacher, tmp_path, styles=None, limit=None, requests=[f"祝姐姐生日快乐,{story}"])
    assert not summary.failures and story in teacher.bodies[0]["messages"][-1]["content"]


@pytest.mark.slow
def test_the_best_of_several_is_kept_with_the_reasons(tmp_path, teacher):
    stub = "当前祝福语如下"

    def rate(pairs):
        return [len(set(answer)) / len(answer) for _, answer in pairs]

    summary = run(teacher, tmp_path / "one", limit=6)
    plain = [row["output"] for row in records.read_conversations(summary.files[0])]

    def answer(body):
        """Spoil the first answer to every prompt: the second one must be taken."""
        status, headers, payload = RecordingTeacher.reply(teacher, body)
        text = payload["choices"][0]["message"]["content"]
        payload["choices"][0]["message"]["content"] = stub if text in plain else text
        return status, headers, payload

    teacher.reply = answer
    summary = run(teacher, tmp_path / "two", limit=6, best_of=3, rate=rate)
    assert (summary.prompts, summary.answered) == (18, 18)
    (file,) = summary.files
    kept = [row["output"] for row in records.read_conversations(file)]
    assert len(kept) == 6 and stub not in kept
    assert records.read_json(records.provenance_path(file))["parameters"]["best_of"] == 3
    with Journal(paths.stage_dir("01", tmp_path / "two") / "journal.sqlite") as journal:
        stored = [json.loads(row[0]) for row in journal._base.execute("SELECT answer FROM answers")]
    choices = [row for row in stored if "best" in row]
    assert len(stored) == 18 + 6 and {row["text"] for row in choices} == set(kept)
    for choice in choices:
        assert choice["faults"][choice["best"]] == [] and any(choice["faults"])
        clean = [one for one, wrong in zip(choice["quality"], choice["faults"], strict=True) if not wrong]
        assert choice["quality"][choice["best"]] == max(clean)
    again = run(teacher, tmp_path / "two", limit=6, best_of=3, rate=rate)
    assert (again.sent, again.files) == (0, summary.files)


@pytest.mark.parametrize("best_of", [0, 17, 1.5, True])
def test_best_of_has_bounds(tmp_path, best_of):
    with pytest.raises(CourseError, match=r"best_of.*1 到 16"):
        synthesize("local", base_url="http://127.0.0.1:9/v1", model="m", best_of=best_of, output_dir=tmp_path)


def test_best_of_needs_a_score(tmp_path):
    with pytest.raises(CourseError, match=r"best_of=2 .*rate="):
        synthesize("local", base_url="http://127.0.0.1:9/v1", model="m", best_of=2, output_dir=tmp_path)


def test_the_recordings_know_no_other_seeds(tmp_path):
    with pytest.raises(CourseError, match=r"没有别的种子的录音.*embedded"):
        synthesize(best_of=2, output_dir=tmp_path)
