"""What every unit test may rely on: nothing of the user's own is read or written."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

# stevedore reads it when it is imported, and keeps a cache of entry points below it
_CACHE = tempfile.mkdtemp(prefix="hvdrivers-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests have cached."""
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_hosts_file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """The user's own file of hosts must not decide what a test connects to."""
    empty = tmp_path_factory.getbasetemp() / "no-config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty))
