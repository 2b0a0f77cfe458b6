"""The set-up: the lock, environment.yml in step with it, the Makefile, and the offline runner."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from packaging.requirements import Requirement

import tianji_helpers
from tianji_helpers import threads
from tianji_helpers.paths import ROOT

MAKE = shutil.which("make")
OFFLINE = [sys.executable, str(ROOT / "tests" / "offline.py")]


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    texts = (line.partition("#")[0].strip(" \\") for line in lines)
    return [Requirement(text) for text in texts if text and not text.startswith("--hash")]


def clean_name(requirement):
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


# --- the lock and what stands beside it


def test_the_lock_pins_everything_that_is_asked_for():
    locked = {}
    for requirement in requirements("requirements.lock") + requirements("requirements-xtuner.txt"):
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)) and not requirement.url
        locked.setdefault(clean_name(requirement), []).append(str(requirement.specifier)[2:])
    for wanted in requirements("requirements.in"):
        assert all(wanted.specifier.contains(version) for version in locked[clean_name(wanted)]), wanted
    assert {"setuptools", "xtuner"} <= locked.keys()


def test_the_lock_knows_every_file_by_its_hash():
    """Else pip would refuse all of them; so a line that was added by hand is found here, not by a student."""
    entries = re.split(
        r"^(?=\w)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert not [entry for entry in entries if entry.strip() and "    --hash=sha256:" not in entry]


def test_every_exact_pin_has_its_reason():
    lines = (ROOT / "requirements.in").read_text(encoding="utf-8").splitlines()
    unexplained = [line for line in lines if "torch" in line and "==" in line and "#" not in line]
    assert not unexplained


@pytest.mark.parametrize("name", ["requirements.in", "requirements.lock", "requirements-xtuner.txt"])
def test_no_index_or_link_stands_in_the_requirements(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://|--(extra-)?index|--find-links|--trusted", text)


def test_conda_gets_the_same_environment():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    python, pip, section = yaml.safe_load(text)["dependencies"]
    assert (pip, section) == ("pip", {"pip": ["-r requirements.lock"]})
    first = re.search(r"\$\(or \$\(PYTHON\),python(\S+)", makefile())  # the Makefile's own first choice
    assert python == f"python={first[1]}"
    # what the Makefile installs after the lock, environment.yml and the README tell people to install
    steps = re.findall(r"\(BIN\)/python -m pip install --quiet (--no-deps .*)", makefile())
    steps = [step for step in steps if not re.search("teacher|vision", step)]  # additions: `make teacher`, …
    assert len(steps) == 2
    for step in steps:
        assert f"#   pip install {step}\n" in text


# --- the Makefile


def makefile():
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "target", ["course", "check", "test", "lab", "notebooks", "lint", "clean", "lock", "help", "scale"]
)
def test_make_knows_the_target(target):
    dry = subprocess.run([MAKE, "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0 and dry.stdout, dry.stderr


def test_make_alone_lists_the_commands():
    shown = subprocess.run([MAKE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"course", "test", "lab"} <= set(re.findall(r"make (\w+)", shown))


def test_ci_runs_make_test():
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("make test")


def test_the_workflows_run_what_anybody_runs_and_may_only_read():
    runs = {}
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        flow = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert flow["permissions"] == {"contents": "read"}
        for job in flow["jobs"].values():
            assert "permissions" not in job and job["timeout-minutes"]
            pins = [step["uses"] for step in job["steps"] if "uses" in step]
            assert pins and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", pin) for pin in pins)
            runs[file.stem] = job, [step["run"] for step in job["steps"] if "run" in step]
    job, lines = runs["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12"]
    assert lines[-1] == "make check PYTHON=python${{ matrix.python }}"
    assert runs["nightly"][1] == [".ci/run"]


def test_the_container_of_the_course_is_set_up_as_anybodys_machine():
    folder = ROOT / ".devcontainer"
    settings = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))
    text = (folder / settings["build"]["dockerfile"]).read_text(encoding="utf-8")
    first = re.search(r"\$\(or \$\(PYTHON\),python(\S+)", makefile())[1]
    assert f"FROM python:{first}-" in text and f" AS {settings['build']['target']}\n" in text
    assert "RUN make setup\n" in text and settings["postCreateCommand"] == "make setup"


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    latest = re.search(r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert citation["version"] == latest[1] == tianji_helpers.__version__
    assert citation["date-released"] == latest[2]


@pytest.mark.slow
def test_a_wheel_can_be_imported_anywhere_and_says_what_it_lacks(tmp_path):
    for name in ("tianji_helpers", "tianji_toolbox"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    source = {file.relative_to(tmp_path / "source") for file in (tmp_path / "source").glob("tianji_*/**/*.*")}
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run([*pip, tmp_path / "source"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    packed = {
        file.relative_to(tmp_path / "site") for file in (tmp_path / "site").rglob("*") if file.is_file()
    }
    missing = {file for file in source - packed if file.name != "README.md"}
    assert not missing
    program = (
        "import tianji_helpers, tianji_helpers.training.fast, tianji_toolbox.cli\n"
        "from tianji_helpers import faults, parameters, wishes\n"
        "from tianji_helpers.errors import CourseError\n"
        "print(tianji_helpers.__file__)\n"
        "for call in (lambda: parameters.checked('01', {}), wishes.load):\n"
        "    try: call()\n"
        "    except CourseError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    place, lessons, data = done.stdout.splitlines()
    assert place.startswith(str(tmp_path)) and "完整的课程文件夹" in lessons and "recipients.yaml" in data


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("name", ["it's here", 'a "b" $HOME `x` $(x)', "课程 one"])
def test_lab_starts_in_a_folder_of_any_name(name, tmp_path):
    folder = tmp_path / name
    (folder / ".venv" / "bin").mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "requirements-xtuner.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    (folder / ".venv" / ".ready").touch()
    script(folder / ".venv" / "bin" / "python", 'printf "%s\\n" "$@" "config=$JUPYTER_CONFIG_PATH"')
    environment = {key: value for key, value in os.environ.items() if key != "JUPYTER_CONFIG_PATH"}
    done = subprocess.run([MAKE, "-s", "lab"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert f"--ServerApp.root_dir={folder}" in said and f"config={folder}/configs/jupyter" in said


@pytest.fixture
def checkout(tmp_path):
    """A copy of the set-up with stand-ins for the interpreters, which keep a log of what they do."""
    for name in ("Makefile", "requirements.lock", "requirements-xtuner.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "awk", "touch", "rm", "mkdir", "cp", "echo"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    script(tmp_path / "bin" / "python3.11", "echo shim of an inactive version >&2; exit 127")
    log = tmp_path / "log"
    inside = f'echo "$@" >> {log}; case "$*" in *.lock) test ! -e {tmp_path}/broken;; esac'
    script(tmp_path / "in-venv", f'case "$1" in -V) echo Python 3.10.1;; *) {inside};; esac')
    script(
        tmp_path / "bin" / "python3.10",
        'case "$1" in -c) exit 0;; -V) echo Python 3.10.1;; '
        f'*) echo "$@" >> {log}; mkdir -p .venv/bin; cp {tmp_path}/in-venv .venv/bin/python;; esac',
    )

    def setup(*arguments):
        log.write_text("")
        done = subprocess.run(
            [MAKE, "setup", *arguments],
            cwd=tmp_path,
            env={"PATH": str(tmp_path / "bin")},
            capture_output=True,
            text=True,
        )
        return done, log.read_text().splitlines()

    return setup, tmp_path


STEPS = [
    "-m pip install --quiet -r requirements.lock",
    "-m pip install --quiet --no-deps -r requirements-xtuner.txt",
    "-m pip install --quiet --no-deps --no-build-isolation -e .",
    "-c import yapf",
]


def test_setup_passes_over_a_dead_shim_and_installs_in_order(checkout):
    setup, folder = checkout
    done, log = setup()
    assert done.returncode == 0, done.stderr
    assert log == ["-m venv --clear .venv", *STEPS]
    assert re.findall(r"^==> \[(\d)/4\]", done.stdout, re.MULTILINE) == ["1", "2", "3", "4"]
    assert (folder / ".venv" / ".ready").exists()
    assert setup()[1] == []


def test_an_interrupted_setup_starts_over_and_a_finished_one_is_only_updated(checkout):
    setup, folder = checkout
    (folder / "broken").touch()
    done, log = setup()
    assert done.returncode != 0 and log[-1] == STEPS[0]
    assert not (folder / ".venv" / ".ready").exists()
    (folder / "broken").unlink()
    assert setup()[1] == ["-m venv --clear .venv", *STEPS]
    os.utime(folder / ".venv" / ".ready", (0, 0))
    assert setup()[1] == STEPS


@pytest.mark.parametrize("mirror", ["", "mirror.example/simple"])
def test_uv_installs_the_lock_where_it_is_there_and_pip_where_it_fails(checkout, mirror):
    setup, folder = checkout
    script(folder / "in-venv", f'case "$*" in *config*) echo {mirror};; *) echo "$@" >> {folder}/log;; esac')
    script(folder / "bin" / "uv", f'echo "uv $@" >> {folder}/log; test ! -e {folder}/broken')
    option = f"--default-index {mirror} " if mirror else ""
    uv = f"uv pip install --quiet --python .venv/bin/python {option}-r requirements.lock"
    done, log = setup()
    assert done.returncode == 0, done.stderr
    assert log == ["-m venv --clear .venv", uv, *STEPS[1:]]
    (folder / "broken").touch()
    (folder / ".venv" / ".ready").unlink()
    assert setup()[1] == ["-m venv --clear .venv", uv, *STEPS]


def test_no_python_that_fits_is_said_clearly(checkout):
    setup, folder = checkout
    done, log = setup("PYTHON=python3.9")
    assert done.returncode != 0 and not log
    assert "找不到能用的 Python 3.10–3.12" in done.stderr and "python3.9" in done.stderr
    assert not (folder / ".venv").exists()


# what each stage of `make test` is, by words of its command
STAGES = {
    "代码风格": "ruff check",
    "排版": "ruff format",
    "类型": "mypy",
    "单元测试和文档例子": "--ignore=",
    "读写文件的测试和分支覆盖": "coverage run",
    "六课逐格比对": "--nbval ",
    "换一组参数再跑一遍六课": "tests/course",
}


@pytest.fixture
def staged(checkout):
    """Run ``make test`` with stand-ins for its stages; those fail whose command has certain words."""
    _, folder = checkout
    for name in ("scale", "site", "deepspeed"):
        pins = folder / "configs" / name.replace("scale", "data_juicer") / "requirements.txt"
        pins.parent.mkdir(parents=True)
        pins.touch()
    for stamp in (".venv/.ready", "build/scale/.ready", "build/site/.ready", "build/deepspeed/.ready"):
        (folder / stamp).parent.mkdir(parents=True)
        (folder / stamp).touch()
    (folder / "bin" / "env").symlink_to(shutil.which("env"))
    for name in ("python", "ruff", "mypy"):
        stage = 'case "$*" in *jail*) echo "$UNLOCKED";; esac; case "$0 $*" in *"$FAILS"*) exit 3;; esac'
        (folder / ".venv" / "bin").mkdir(exist_ok=True)
        script(folder / ".venv" / "bin" / name, f'echo "$0 $@" >> {folder}/log; {stage}')

    def test(fails, unlocked=""):
        (folder / "log").write_text("")
        environment = {"PATH": str(folder / "bin"), "FAILS": fails, "UNLOCKED": unlocked}
        done = subprocess.run([MAKE, "test"], cwd=folder, env=environment, capture_output=True, text=True)
        ran = (folder / "log").read_text().splitlines()
        assert [any(words in line for line in ran) for words in STAGES.values()] == [True] * len(STAGES)
        assert re.findall(r"^==> (.+)", done.stdout, re.MULTILINE) == list(STAGES)
        return done

    return test, folder


@pytest.mark.parametrize("red", [[], *([name] for name in STAGES)], ids=str)
def test_a_stage_that_fails_hides_no_other_and_is_named(red, staged):
    done = staged[0](STAGES[red[0]] if red else "nothing")
    said = [line for line in done.stderr.splitlines() if line.startswith("没有通过")]
    assert said == [f"没有通过： {name}" for name in red]
    assert ("全部通过" in done.stdout) == (done.returncode == 0) == (not red)


def test_several_stages_that_fail_are_all_named(staged):
    done = staged[0]("ruff")
    assert done.returncode != 0 and "没有通过： 代码风格 排版\n" in done.stderr


def test_what_was_skipped_for_want_of_a_program_is_said(staged):
    test, folder = staged
    for tools, missing in (
        ((), ["Chromium", "gcc"]),
        (("google-chrome",), ["gcc"]),
        (("chromium", "cc"), []),
    ):
        for tool in tools:
            script(folder / "bin" / tool, "exit 9")
        done = test("nothing")
        assert re.findall(r"^没有 (\w+)：.*apt install", done.stdout, re.MULTILINE) == missing
        assert done.returncode == 0 and "关不住" not in done.stdout
    assert "评分的测试都跳过了。没有 bubblewrap" in test("nothing", "没有 bubblewrap").stdout


# --- the offline runner

PROBE = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=5).close()
for attempt in (lambda: socket.create_connection(("192.0.2.1", 443), timeout=5),
                lambda: socket.getaddrinfo("example.org", 443)):
    try:
        attempt()
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_offline_leaves_loopback_only(namespaces, tmp_path):
    environment = dict(os.environ)
    if not namespaces:
        environment["PATH"] = str(tmp_path)  # no unshare there: the fallback
    elif subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this kernel allows no network namespaces")
    done = subprocess.run(
        [*OFFLINE, sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["OSError", "gaierror"]
    assert ("WARNING" in done.stderr) == (not namespaces)


def test_offline_hands_the_exit_status_on():
    assert subprocess.run([*OFFLINE, sys.executable, "-c", "raise SystemExit(7)"]).returncode == 7


def test_offline_refuses_to_start_where_the_network_is_still_there(monkeypatch):
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import offline
    finally:
        sys.path.pop(0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(offline, "OUTSIDE", server.getsockname())
        with pytest.raises(SystemExit, match="still there"):
            offline.prove_offline()


def test_the_license_is_apache():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in Path(ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_makefile_and_package_agree_on_threads():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, value in threads.ENVIRONMENT.items():
        assert f"export {name} = {value}\n" in text
    assert threads.with_defaults({"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"


def test_threads_of_a_training_wait_longer_only_on_a_calm_machine(monkeypatch):
    cores = psutil.cpu_count()
    spin = []
    for busy in (0.1, 1.0):
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, busy=busy: 100 * busy / cores)
        spin.append(int(threads.for_long_run({})["GOMP_SPINCOUNT"]))
        assert threads.for_long_run({"GOMP_SPINCOUNT": "5"})["GOMP_SPINCOUNT"] == "5"
    assert spin[0] > spin[1] == int(threads.ENVIRONMENT["GOMP_SPINCOUNT"])


def test_a_training_gets_large_pages_unless_one_has_settings_of_ones_own():
    assert "hugetlb" in threads.for_long_run({})["GLIBC_TUNABLES"]
    own = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}
    assert threads.for_long_run(own)["GLIBC_TUNABLES"] == own["GLIBC_TUNABLES"]


def test_a_busy_process_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            assert threads.for_long_run({})["GOMP_SPINCOUNT"] == threads.ENVIRONMENT["GOMP_SPINCOUNT"]
        finally:
            process.kill()
