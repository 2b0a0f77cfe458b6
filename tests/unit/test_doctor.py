"""The doctor: each check on real and made-up machines, the report, and no secret in it."""

import sys

import pytest

from tianji_helpers import paths, plots
from tianji_helpers.errors import CourseError
from tianji_toolbox import doctor
from tianji_toolbox.doctor import FAIL, OK, WARN


def test_this_machine_passes_and_every_problem_would_name_its_fix(tmp_path, capsys):
    checks = doctor.diagnose(tmp_path)
    assert doctor.report(checks) == 0
    printed = capsys.readouterr().out
    for part in (
        "Python",
        "依赖包",
        "CPU",
        "GPU",
        "中文字体",
        "Jupyter 内核",
        "API 密钥",
        "内存",
        "磁盘 models",
    ):
        assert f"] {part}" in printed
    assert str(tmp_path) in printed and printed.endswith("环境就绪。\n")
    assert all(check.fix for check in checks if check.status != OK)


def test_a_failure_is_counted_and_shown_with_its_fix(capsys):
    checks = [doctor.Check("甲", OK, "好"), doctor.Check("乙", FAIL, "坏", "修一修")]
    assert doctor.report(checks) == 1
    assert (
        capsys.readouterr().out
        == "[OK] 甲：好\n[FAIL] 乙：坏\n       → 修一修\n有 1 项不通过，请按 → 后面的办法处理。\n"
    )
    assert doctor.report([doctor.Check("丙", WARN, "慢", "等一等")]) == 0


def test_keys_are_told_but_never_shown(tmp_path, monkeypatch):
    monkeypatch.delenv("ZHIPUAI_API_KEY", raising=False)
    monkeypatch.setenv("DEEPSEEK_API_KEY", "very-secret")
    assert doctor.check_keys(tmp_path).message.startswith("DEEPSEEK_API_KEY 已设置，ZHIPUAI_API_KEY 未设置")
    (tmp_path / ".env").write_text("ZHIPUAI_API_KEY=also-secret\n")
    line = str(doctor.check_keys(tmp_path))
    assert "ZHIPUAI_API_KEY 已设置" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("version", "status"), [((3, 9), FAIL), ((3, 10), OK), ((3, 12), OK), ((3, 13), FAIL)]
)
def test_python_versions(monkeypatch, version, status):
    monkeypatch.setattr(sys, "version_info", (*version, 1))
    assert doctor.check_python().status == status


@pytest.fixture
def lock(tmp_path):
    def write(text, xtuner="xtuner==0.2.0\n"):
        (tmp_path / "requirements.lock").write_text(text)
        (tmp_path / "requirements-xtuner.txt").write_text(xtuner)
        return doctor.check_packages(tmp_path)

    return write


def test_packages_are_compared_with_the_lock(lock):
    assert lock("pyyaml==6.0.3\nnot-for-us==1 ; python_version < '3'\n").status == OK
    wrong = lock("pyyaml==1.0\nno-such-package==2.0\n")
    assert wrong.status == FAIL and "make setup" in wrong.fix
    assert "no-such-package（没有装）" in wrong.message and "pyyaml 6.0.3（要 ==1.0）" in wrong.message


def test_a_build_for_one_machine_is_the_same_version(lock, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.11.0+cpu")
    assert lock("torch==2.11.0\n", xtuner="").status == OK


def test_many_wrong_packages_are_counted(lock):
    message = lock("".join(f"no-such-package-{n}==1\n" for n in range(9))).message
    assert message.count("没有装") == 5 and message.endswith("等 9 个")


def test_a_missing_lock_is_a_failure_with_a_fix(tmp_path):
    check = doctor.check_packages(tmp_path)
    assert (check.status, check.message) == (FAIL, "找不到 requirements.lock") and check.fix


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        ("fma avx avx2 avx512f avx512_bf16", OK, "有 AVX512-BF16"),
        ("fma avx avx2", OK, "没有 AVX512-BF16"),
        ("sse2", WARN, "没有 AVX2"),
    ],
)
def test_cpu_features(tmp_path, flags, status, words):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    check = doctor.check_cpu(tmp_path / "cpuinfo")
    assert check.status == status and words in check.message


def test_a_system_without_cpuinfo_is_fine(tmp_path):
    assert "指令集未知" in doctor.check_cpu(tmp_path / "none").message


def test_memory_counts_the_smaller_of_machine_and_container(tmp_path, monkeypatch):
    assert doctor.check_memory(needed=0.001).status == OK
    short = doctor.check_memory(needed=1e6)
    assert short.status == FAIL and "需要 1e+06 GB" in short.message
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("2500000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 1500000000\n")
    free = doctor._container_memory(tmp_path)
    assert free == 2.0
    monkeypatch.setattr(doctor, "_container_memory", lambda: free)
    assert "空闲 2.0 GB（容器的上限）" in doctor.check_memory().message


def test_a_container_without_a_limit_sets_none(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor._container_memory(tmp_path) is None
    assert doctor._container_memory(tmp_path / "none") is None


def test_disk_is_asked_where_the_folder_will_be(tmp_path):
    assert doctor.check_disk(tmp_path / "not" / "there", needed=0.001).status == OK
    assert not (tmp_path / "not").exists()
    assert "需要 1e+09 GB" in doctor.check_disk(tmp_path, needed=1e9).message
    (tmp_path / "file").touch()
    blocked = doctor.check_disk(tmp_path / "file" / "below")
    assert blocked.status == FAIL and "不能写" in blocked.message


def test_a_missing_font_is_reported(monkeypatch):
    def missing():
        raise CourseError("没有字体")

    monkeypatch.setattr(plots, "font_file", missing)
    assert (doctor.check_font().status, doctor.check_font().message) == (FAIL, "没有字体")


def test_a_kernel_of_another_environment_is_reported(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/elsewhere/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],'
        ' "display_name": "Python 3", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = doctor.check_kernel()
    assert check.status == FAIL and "/elsewhere/bin/python" in check.message and "ipykernel" in check.fix


def test_the_course_asks_for_memory_and_disk(tmp_path):
    assert [check.name for check in doctor.resources(tmp_path)] == ["内存", f"磁盘 {tmp_path}"]
    assert doctor.check_disk(paths.ROOT / "outputs").name == "磁盘 outputs"
