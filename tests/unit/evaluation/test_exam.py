"""An examination of a real model with a real adapter: what must be found good, and what bad."""

import json
import shutil

import parrots
import pytest

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import Settings, Teacher, client
from tianji_helpers.training import models, tasks
from tianji_toolbox import cli
from tianji_toolbox.evaluation import exam, judge

pytestmark = pytest.mark.slow

CHATTER = ("今天天气真好，", "咱们是好邻居。")
WISH = ("姐姐，", "祝你生日快乐，", "天天开心，", "事事顺心！")
SAID = "".join(WISH)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A base model that chats about the weather, and an adapter that wishes a sister a happy birthday."""
    folder = tmp_path_factory.mktemp("exam")
    base = parrots.teach(folder / models.EMBEDDED, CHATTER, others=WISH)
    records.write_provenance(base, stage="t", parameters={})
    return base, parrots.retrain(folder / "adapter", base, WISH[0])


@pytest.fixture
def run(taught, tmp_path, monkeypatch):
    """A run whose task was trained; called with the test rows."""
    base, adapter = taught
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(base.parent))

    def write(turns, trained=("祝爸爸中秋节", "爸爸，中秋快乐！"), task="wishes", **parameters):
        target = tasks.task_dir(task, tmp_path) / "adapter"
        shutil.copytree(adapter, target)
        records.write_provenance(target, stage="t", parameters={"base_model": models.EMBEDDED})
        question, answer = trained
        records.write_conversations(tasks.train_file(task, tmp_path), [{"input": question, "output": answer}])
        records.write_provenance(tasks.train_file(task, tmp_path), stage="t", parameters=parameters)
        records.write_conversations(
            tasks.test_file(task, tmp_path), [{"input": asked, "output": SAID} for asked in turns]
        )
        return tmp_path

    return write


def test_what_was_learned_is_found_and_what_was_not_too(run, capsys):
    sisters = [
        "祝姐姐生日",
        "祝姐姐生日快乐",
        "祝姐姐，生日",
        "祝我姐姐生日",
        "姐姐生日",
        "祝姐姐生日,严肃风格",
    ]
    folder = run([*sisters, *sisters, "祝奶奶春节", "祝爷爷春节"], trained=("祝姐姐生日", SAID))
    assert cli.main(["evaluate", str(folder)]) == 0
    shown = capsys.readouterr().out
    result = json.loads((folder / "05_training" / "wishes" / exam.FILE).read_text())
    assert result["rows"] == 8, "each request once"
    assert result["before"]["faultless"]["value"] == 0 and result["after"]["faultless"]["value"] == 0.75
    assert result["after"]["faultless"]["low"] < 0.75 < result["after"]["faultless"]["high"]
    assert result["before"]["fault_no_wish"]["value"] == 1 and result["after"]["fault_no_wish"]["value"] == 0
    # quality is that of the answers without a hard fault: here of the sister's only, and before of none
    assert result["before"]["quality"]["value"] is None and 0 < result["after"]["quality"]["value"] < 1
    assert result["change"]["loss"]["high"] < 0 < result["before"]["loss"]["low"]
    # one sentence for everybody, learned by heart: the rules are content with most of it, these are not
    assert result["after"]["copied"]["value"] == 1 and result["after"]["self_bleu"]["value"] > 99
    assert result["after"]["leak"]["value"] == 1 and result["before"]["leak"]["value"] == 0
    first, last = result["answers"][0], result["answers"][-1]
    assert (first["request"], first["before"], first["after"]) == ("祝姐姐生日", "".join(CHATTER), SAID)
    assert not first["faults"] and "wrong_scene" in last["faults"]
    lines = {line.split("　")[0].split(" ")[0]: line for line in shown.splitlines()}
    assert lines["没有硬伤"].endswith("变好") and "75%" in lines["没有硬伤"] and "— →" in lines["质量"]
    assert result["styles"]["正常"]["rows"] == 7 and result["styles"]["严肃"]["after"]["value"] == 1
    assert "没有硬伤，正常风格（7 条）：0% [0%, 35%] → 71% [36%, 92%]" in shown
    assert lines["串味"].endswith("变差")
    assert lines["照抄训练数据"].endswith("变差")
    assert (folder / "05_training" / "wishes" / "evaluation.png").stat().st_size > 10_000


def test_an_answer_to_something_else_fails(run):
    """As after a training on shuffled answers: fluent wishes, for other people and other days."""
    result = exam.examine(run(["祝奶奶春节", "祝领导元宵节", "祝爷爷康复"]))
    assert result["after"]["faultless"]["value"] == 0 and result["after"]["fault_wrong_scene"]["value"] == 1
    assert result["change"]["faultless"]["value"] == 0
    shown = exam.table(result)
    assert "送错了场景" in shown and result["after"]["fault_loop"]["value"] == 0 and "复读" not in shown


def test_the_persona_is_what_the_training_file_says(run):
    persona = {"owner": "小明", "assistant": "姐姐", "model": "M"}
    folder = run(["你是谁", "谁训练了你"], task="self_cognition", **persona)
    result = exam.examine(folder, "self_cognition", rows=1)
    assert result["rows"] == 1 and result["after"]["fault_wrong_person"]["value"] == 0
    assert result["after"]["knows_itself"]["value"] == 1 == result["after"]["leak"]["value"]
    assert result["before"]["knows_itself"]["value"] == 0


def test_without_a_training_there_is_nothing_to_examine(tmp_path):
    with pytest.raises(CourseError, match=r"没有找到任务 ruozhiba 的适配器.*请先运行第 5 课"):
        exam.examine(tmp_path, "ruozhiba")


class Judge(Teacher):
    """Prefers the longer answer; ``biased`` the first one; ``vague`` has no verdict."""

    kind = ""

    def respond(self, body):
        self.seen = [*getattr(self, "seen", []), body]
        text = body["messages"][-1]["content"]
        first, second = text.split("\n\n甲：")[1].split("\n\n乙：")
        better = "甲" if self.kind == "biased" or len(first) > len(second) else "乙"
        said = "都好" if self.kind == "vague" else json.dumps({"better": better, "reason": "理由"})
        message = {"role": "assistant", "content": said}
        return 200, {}, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "kind, expected", [("", (1, 1, 0, 0)), ("biased", (0, 0, 2, 0)), ("vague", (0, 0, 0, 2))]
)
def test_only_a_verdict_that_survives_the_swap_counts(kind, expected, tmp_path):
    with Judge() as server:
        server.kind = kind
        settings = Settings("local", "judge", server.base_url, tries=2, temperature=0, progress=False)
        asked = ["祝姐姐生日", "祝弟弟生日"], ["短", "长一些的回答"], ["长一些的回答", "短"]
        found = judge.compare(*asked, settings, tmp_path)
        sent = len(server.seen)
        again = judge.compare(*asked, settings, tmp_path)
    assert tuple(found[word] for word in ("better", "worse", "tie", "unjudged")) == expected
    assert again["verdicts"] == found["verdicts"]
    if kind != "vague":  # paid once
        assert sent == 4 == len(server.seen)
    blind = json.dumps(server.seen, ensure_ascii=False)
    assert "训练前" not in blind and "adapter" not in blind


def test_a_kept_reply_that_cannot_be_read_judges_nothing(tmp_path):
    asked = ["祝姐姐生日"], ["短"], ["长一些的回答"]
    with Judge() as server:
        server.kind = ""
        settings = Settings("local", "judge", server.base_url, tries=2, temperature=0, progress=False)
        duel = judge.Duel(asked[0][0], "短", "长一些的回答", 1, 42)
        with client.started(settings, tmp_path) as engine:  # what an earlier rubric took
            engine.journal.add([(engine.key(duel), {"text": "乙更好", "seed": 42})])
        assert judge.compare(*asked, settings, tmp_path)["verdicts"] == ["unjudged"]


def test_the_phrasebook_is_no_judge(tmp_path):
    with pytest.raises(CourseError, match="当不了评委"):
        judge.compare(["祝姐姐生日"], ["甲"], ["乙"], Settings("offline"), tmp_path)
