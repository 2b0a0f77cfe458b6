"""The folder for demo platforms: started as they start it, with the packages that it asks for alone."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib import metadata

import parrots
import psutil
import pytest
import tiny_models
import toml
from handshakes import opened
from playwright.sync_api import expect

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.shipping import app_folder

PIECES = ("祝您", "平安")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return parrots.teach(tmp_path_factory.mktemp("app") / "model", PIECES)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the installed packages that requirements.txt names, and no others."""
    site = (
        tmp_path_factory.mktemp("python") / "site-packages"
    )  # elsewhere Streamlit takes itself for a checkout
    site.mkdir()
    for line in app_folder.requirements():
        name = line.partition("==")[0]
        try:
            files = metadata.files(name)
        except metadata.PackageNotFoundError:
            continue  # of another Python version
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            target = site / top
            if not target.exists():
                target.symlink_to(metadata.distribution(name).locate_file(top))
    return site


def _wait_for(port, process):
    for _ in range(1500):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5):
                return
        except OSError:
            assert process.poll() is None, "the app has ended"
            time.sleep(0.2)
    pytest.fail("the app did not come up")


@contextmanager
def started(folder, packages, *command):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIANJI")}
    env |= {"PYTHONPATH": str(packages), "STREAMLIT_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-S", *command], cwd=folder, env=env) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(300)


@pytest.mark.parametrize(
    "start", [["app.py"], ["-m", "streamlit", "run", "app.py"]], ids=["python", "streamlit"]
)
def test_it_answers_with_what_it_carries(page, model_dir, packages, tmp_path, start):
    folder = app_folder.write(model_dir, "openxlab", tmp_path / "app")
    with started(folder, packages, *start) as url:
        page.goto(url)
        page.get_by_role("button", name="送祝福", exact=True).click()
        expect(page.locator(".wish")).to_have_text("".join(PIECES), timeout=60_000)


def test_to_try_it_opens_it_to_this_machine_only(model_dir, packages, tmp_path, capsys):
    assert cli.main(["app", str(model_dir), str(tmp_path / "app"), "--to", "modelscope"]) == 0
    command = re.search(r"先在本机试：python (.+)", capsys.readouterr().out)[1].split()
    env = os.environ | {"PYTHONPATH": str(packages), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-S", *command], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
            _wait_for(port, process)
            listening = [
                one for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"
            ]
            assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
            assert opened(port, "127.0.0.1") == 101
            assert opened(port, "evil.example") == 403  # a name that was made to lead here
            assert opened(port, "localhost", "evil.example") == 403
        finally:
            process.kill()


def test_each_platform_finds_its_settings(model_dir, tmp_path, synced):
    folders = {name: app_folder.write(model_dir, name, tmp_path / name) for name in app_folder.PLATFORMS}
    for folder in folders.values():
        assert synced(folder)
        server = toml.loads((folder / ".streamlit" / "config.toml").read_text())["server"]
        assert (server["address"], server["port"], server["headless"]) == ("0.0.0.0", 7860, True)
        assert {"streamlit", "torch", "transformers"} <= {
            re.match(r"[\w-]+(?===\d)", line)[0]
            for line in (folder / "requirements.txt").read_text().splitlines()
        }
    space = folders["huggingface"]
    assert re.match(
        r"---\ntitle: .*\nsdk: docker\napp_port: 7860\n---\n", (space / "README.md").read_text(), re.S
    )
    docker = (space / "Dockerfile").read_text()
    assert "requirements.txt" in docker and 'CMD ["python", "app.py"]' in docker and "EXPOSE 7860" in docker
    assert json.loads((folders["modelscope"] / "ms_deploy.json").read_text())["sdk_type"] == "streamlit"


def test_nothing_of_this_machine_goes_along(model_dir, tmp_path):
    private = {"system": "你是大师", "secret": "sk-private"}
    records.write_provenance(model_dir, stage="06_merge_chat", parameters=private)
    (model_dir / "notes.log").write_text("sk-private")
    try:
        folder = app_folder.write(model_dir, "modelscope", tmp_path / "app")
    finally:
        records.provenance_path(model_dir).unlink()
        (model_dir / "notes.log").unlink()
    assert "你是大师" in (folder / "model.provenance.json").read_text(encoding="utf-8")
    for file in (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".safetensors"):
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("sk-private", str(paths.ROOT), str(tmp_path)) if word in text], file
        assert ".git" not in file.parts and "__pycache__" not in file.parts


def test_a_model_that_sees_does_not_go_without_its_eyes(model_dir, tmp_path):
    folder = tiny_models.link(model_dir, tmp_path / "sees")
    (folder / "projector").mkdir()
    with pytest.raises(CourseError, match=r"会看图（第 7 课）.*tianji web"):
        app_folder.write(folder, "openxlab", tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_a_folder_that_holds_something_is_left_alone(model_dir, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CourseError, match="里已经有东西，不会覆盖"):
        app_folder.write(model_dir, "openxlab", tmp_path)
    with pytest.raises(CourseError, match="没有叫 gitee 的平台"):
        app_folder.write(model_dir, "gitee", tmp_path / "app")
    assert cli.main(["app", str(tmp_path), str(tmp_path / "app"), "--to", "openxlab"]) == 1
    assert "错误：" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
