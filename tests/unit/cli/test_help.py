"""Help, start-up, the reference, completion, and the command without its packages."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
import typer

from hvdrivers.cli import complete
from hvdrivers.cli.app import app
from hvdrivers.cli.registry import COMMANDS
from hvdrivers.fake.host import FakeHost
from hvdrivers.installing import install_hint

from .conftest import Runner, script

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
Make = Callable[..., UUID]


def test_help_is_as_it_was(run: Runner) -> None:
    """A change of the commands shows here: write the file anew when it is meant."""
    done = run("--help")
    assert done.code == 0
    commands = done.out[done.out.index("Drivers and hosts:") :]
    assert commands == (HERE / "help.txt").read_text()


def test_no_arguments_is_help(run: Runner) -> None:
    assert run().out == run("--help").out == run("-h").out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(run: Runner, name: str) -> None:
    done = run(name, "--help")
    assert done.code == 0
    assert done.err == ""
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
    assert f"Usage: hvdrivers {name}" in done.out
    group = typer.main.get_command(app)
    text = (group.commands[name].help or "").splitlines()[0]  # type: ignore[attr-defined]
    assert text.startswith(COMMANDS[name].help)
    host = ["HOST"] if group.commands[name].params else []  # type: ignore[attr-defined]
    for word in getattr(group.commands[name], "commands", {}):  # type: ignore[attr-defined]
        part = run(name, *host, word, "--help")
        assert part.code == 0
        assert [line for line in part.out.splitlines() if len(line) > 80] == []


def test_every_parameter_has_help() -> None:
    group = typer.main.get_command(app)
    for name in COMMANDS:
        command = group.commands[name]  # type: ignore[attr-defined]
        for each in [command, *getattr(command, "commands", {}).values()]:
            assert each.help, name
            for param in each.params:
                assert getattr(param, "help", None), f"{name}: {param.name}"


def test_reference_is_in_step() -> None:
    module = runpy.run_path(str(ROOT / "scripts" / "cli_reference.py"))
    wanted = module["reference"]()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == wanted, (
        "python scripts/cli_reference.py"
    )


def _told_by(code: str) -> str:
    """What a program in a new interpreter writes to its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from hvdrivers.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'pydantic', 'rich', 'yaml', 'stevedore', 'httpx', 'libvirt'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    told = _told_by(code)
    assert told == "[]\n"


def test_the_command_looks_seldom_for_garbage() -> None:
    """A program that calls main() with arguments of its own keeps its own settings."""
    code = (
        "import gc, sys\n"
        "from hvdrivers.cli import main\n"
        "before = gc.get_threshold()\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    assert gc.get_threshold() == before\n"
        "sys.argv = ['hvdrivers', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    assert gc.get_threshold()[0] > 10 * before[0]\n"
        "assert gc.isenabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=300)


def test_help_imports_little_of_our_own() -> None:
    """The time that it takes is that of its imports: a count does not depend on the machine."""
    code = (
        "import sys\n"
        "from hvdrivers.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n"
        "    ours = [name for name in sys.modules if name.startswith('hvdrivers')]\n"
        "    print(len(ours), file=sys.stderr)\n"
    )
    told = _told_by(code)
    assert int(told) <= 16


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    from hvdrivers.cli import main\n    main(['list', 'fake://'])\n"
        "except SystemExit:\n    pass\n",
        "import hvdrivers.libvirt.driver, hvdrivers.plugins.connecting\n",
    ],
    ids=["list", "libvirt"],
)
def test_a_list_imports_nothing_heavy(code: str) -> None:
    """What is slow to import, and only other commands or operations use. ``rich.table`` draws the
    list itself."""
    heavy = {
        "asyncio",
        "http.client",
        "multiprocessing",
        "ssl",
        "tarfile",
        "tomllib",
        "urllib.request",
        "yaml",
        "httpx",
        "os_brick",
        "pyVmomi",
        "winrm",
        "rich.progress",
        "rich.markdown",
        "rich.live",
        "rich.traceback",
        "pydantic.v1",
        "pydantic_settings",
        "hvdrivers.aio",
        "hvdrivers.conformance",
        "hvdrivers.openstack",
        "hvdrivers.testing",
        "hvdrivers.vmware",
        "hvdrivers.hyperv",
        "hvdrivers.images.source",
        "hvdrivers.cli.spawn",
        "hvdrivers.cli.volume",
    }
    wanted = f"import sys\n{code}print(sorted({heavy} & set(sys.modules)), file=sys.stderr)\n"
    told = _told_by(wanted)
    assert told == "[]\n"


def test_a_list_imports_few_packages_and_few_commands() -> None:
    """One that comes into it later costs every command: it is a decision, and stands here. What
    Typer's parser was before it brought one along is in the set too."""
    pytest.importorskip("libvirt")
    few = {
        *("pydantic", "pydantic_core", "annotated_types", "typing_extensions"),
        *("typing_inspection", "stevedore", "rich", "typer", "click", "annotated_doc"),
        *("shellingham", "libvirt", "libvirt_qemu", "libvirtmod", "libvirtmod_qemu"),
    }
    code = (
        "import sys\n"
        "from hvdrivers.cli import main\n"
        "try:\n    main(['list', 'fake://'])\n"
        "except SystemExit:\n    pass\n"
        "import hvdrivers.libvirt.driver\n"
        "files = {name: getattr(each, '__file__', None) or ''\n"
        "         for name, each in sys.modules.items()}\n"
        "print(*sorted({name.partition('.')[0] for name, file in files.items()\n"
        "               if 'site-packages' in file}), file=sys.stderr)\n"
        "print(sum(name.startswith('hvdrivers.cli.') for name in files), file=sys.stderr)\n"
    )
    told = _told_by(code)
    packages, commands = told.splitlines()
    found = {each for each in packages.split() if not each.startswith("_")} - {"hvdrivers"}
    assert {"pydantic", "rich", "libvirt"} <= found <= few
    assert int(commands) <= 14


def test_without_the_packages(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'typer' else real(n, *a)\n"
        "from hvdrivers.cli import main\n"
        "main(['list', 'fake://'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"hint: {install_hint('cli')}\n" in done.stderr
    assert "pip install '.[cli]'" in done.stderr
    assert "typer" in done.stderr


# ---- completion ----


def completions(words: str, *, body: str = "", config: Path | None = None) -> list[str]:
    """What bash would offer after these words."""
    done = subprocess.run(
        script(body, []),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={
            **os.environ,
            "_HVDRIVERS_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            **({"XDG_CONFIG_HOME": str(config)} if config else {}),
        },
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_complete() -> None:
    assert completions("hvdrivers sp") == ["spawn"]
    assert completions("hvdrivers volume att") == ["attach"]


def test_hosts_complete(tmp_path: Path) -> None:
    (tmp_path / "hvdrivers").mkdir()
    (tmp_path / "hvdrivers" / "hosts.toml").write_text(
        '[hosts.lab1]\ndriver = "fake"\n[hosts.lab2]\ndriver = "fake"\n'
        "[hosts.'$(touch x)']\ndriver = 'fake'\n"
    )
    assert completions("hvdrivers list lab", config=tmp_path) == ["lab1", "lab2"]
    everything = completions("hvdrivers list ", config=tmp_path)
    assert "fake" in everything
    assert not any("$" in each for each in everything)


def test_instances_complete_as_safe_words() -> None:
    body = """
make("web1")
make("$(id)", UUID("22222222-2222-4333-8444-555555555555"))
make("twin", UUID("33333333-2222-4333-8444-555555555555"))
make("twin", UUID("44444444-2222-4333-8444-555555555555"))
"""
    for words in ("hvdrivers show fake://box ", "hvdrivers snapshot list fake://box "):
        assert sorted(completions(words, body=body)) == [
            "22222222-2222-4333-8444-555555555555",
            "33333333-2222-4333-8444-555555555555",
            "44444444-2222-4333-8444-555555555555",
            "web1",
        ]
    assert completions("hvdrivers destroy fake://box w", body=body) == ["web1"]


def test_completion_says_nothing_of_a_dead_host() -> None:
    assert completions("hvdrivers show fake://box ", body="host.stop_answering()") == []
    assert completions("hvdrivers show nonsense://box ") == []


def test_completion_does_not_wait(
    host: FakeHost, url: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.setattr(complete, "DEADLINE", 0.2)
    hung = threading.Event()
    # it comes back although what it waits for has not happened
    assert complete._quickly(lambda: [str(hung.wait())]) == []
    assert not hung.is_set()
    hung.set()


def test_completion_script_is_shown(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = run("--show-completion", "bash")
    assert done.code == 0
    assert "_HVDRIVERS_COMPLETE=complete_bash" in done.out
