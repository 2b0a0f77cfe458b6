"""What the tests share: they leave the course's own outputs and keys alone."""

import os
import signal

import hypothesis
import pytest

from tianji_helpers import threads

# before anything imports OpenMP: tests run beside the kernels that they start
os.environ.update(threads.with_defaults())

# a shell that runs the tests in the background has Ctrl-C ignored, in all their children too
signal.signal(signal.SIGINT, signal.default_int_handler)

# they hold no examples, and two of them cannot both be imported as "conftest"
collect_ignore_glob = ["*conftest.py"]

# machines are shared: a slow example says nothing
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")


SLOW = {"base_dir", "browser"}  # fixtures that prepare a model, or start a browser


def pytest_collection_modifyitems(items):
    """What uses them is slow, wherever it stands, and so are the tests of pages."""
    for item in items:
        if SLOW.intersection(getattr(item, "fixturenames", ())) or item.path.parent.name == "pages":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def base_dir():
    """The embedded model, prepared once in ``models/``."""
    from tianji_helpers.training import models

    return models.prepare(report=lambda line: None)


@pytest.fixture
def synced(monkeypatch):
    """Whether all files of a folder, or a file, were put on the disk in this test."""
    seen, sync = set(), os.fsync

    def watch(handle):
        seen.add(os.fstat(handle).st_ino)
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    return lambda made: {path.stat().st_ino for path in (made, *made.rglob("*"))} <= seen


@pytest.fixture
def homeless(monkeypatch):
    """A user without HOME and without an entry in the list of users: a container's bare number."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.fixture(autouse=True)
def own_outputs(tmp_path_factory, monkeypatch):
    """Send whatever a test writes without naming a folder into a temporary one."""
    monkeypatch.setenv("TIANJI_OUTPUT_DIR", str(tmp_path_factory.mktemp("outputs")))
    # Streamlit sets it when it is imported; kernels that a test starts would then show no figure
    monkeypatch.delenv("MPLBACKEND", raising=False)
