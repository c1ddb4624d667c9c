"""What every unit test may rely on: nothing of the user's own is read or written."""

from __future__ import annotations

import importlib
import shutil
import tempfile

import pytest

_CACHE = tempfile.mkdtemp(prefix="hvdrivers-tests-")

with pytest.MonkeyPatch.context() as _patch:
    # Stevedore keeps a cache of entry points below it, and reads it when it is imported. Only for
    # that moment: the tests beside these find the guest's kernel and agent in the real one.
    _patch.setenv("XDG_CACHE_HOME", _CACHE)
    importlib.import_module("stevedore")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests have cached."""
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_hosts_file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """The user's own file of hosts must not decide what a test connects to."""
    empty = tmp_path_factory.getbasetemp() / "no-config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty))
    monkeypatch.setenv("XDG_CACHE_HOME", _CACHE)
