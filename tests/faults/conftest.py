"""What the tests of disks share: the library that lets calls fail, and a folder that waits for no disk."""

import tempfile
from pathlib import Path

import failing_disk
import pytest


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    library = failing_disk.build(tmp_path_factory.getbasetemp())
    if library is None:
        pytest.skip("没有 gcc：磁盘出错的测试跳过了。装上就有：apt install gcc")
    return library


@pytest.fixture
def quick(tmp_path):
    """A folder in memory, where the system has one: thousands of syncs are tried, and none is needed."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder).resolve()
