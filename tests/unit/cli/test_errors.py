"""Failures: exit status, words, and the JSON object; questions; confirmation."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
import typer

from hvdrivers.cli.codes import ExitCode, code_of
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.faults import FaultRule
from hvdrivers.fake.host import FakeHost

from .conftest import Runner

Make = Callable[..., UUID]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.HypervisorError, ExitCode.FAILED),
        (errors.NotSupported, ExitCode.NOT_SUPPORTED),
        (errors.InvalidRequest, ExitCode.USAGE),
        (errors.ImageRejected, ExitCode.FAILED),
        (errors.InvalidState, ExitCode.FAILED),
        (errors.InstanceNotFound, ExitCode.FAILED),
        (errors.ConnectionFailed, ExitCode.UNREACHABLE),
        (errors.AuthenticationFailed, ExitCode.UNREACHABLE),
        (errors.PermissionDenied, ExitCode.UNREACHABLE),
        (errors.OperationTimeout, ExitCode.UNKNOWN),
        (errors.OutcomeUnknown, ExitCode.UNKNOWN),
        (errors.ContractViolation, ExitCode.FAILED),
        (errors.PluginError, ExitCode.FAILED),
    ],
)
def test_exit_status_of_every_error(
    run: Runner,
    url: str,
    host: FakeHost,
    error: type[errors.HypervisorError],
    code: ExitCode,
) -> None:
    def refuse() -> errors.HypervisorError:
        return error("it went wrong", hint="do better", vendor_code="E42")

    assert code_of(error("")) == code
    with host.faults.add(FaultRule(operation="list_instances", error=refuse)):
        done = run("list", url, "-o", "json")
    assert done.code == code
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[0].startswith("error: it went wrong [E42]")
    assert "hint: do better" in lines
    assert done.error["type"] == error.__name__
    assert done.error["operation"] == "list_instances"
    assert done.error["vendor_code"] == "E42"
    assert done.error["exit_code"] == code


def test_without_json_there_is_no_json(run: Runner, url: str) -> None:
    done = run("show", url, uuid4())
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "\nhint: " in done.err
    assert "{" not in done.err


def test_causes_are_told(run: Runner, url: str, host: FakeHost) -> None:
    def refuse() -> errors.HypervisorError:
        error = errors.HypervisorFault("it failed")
        error.__cause__ = OSError(5, "I/O error", "/dev/sda")
        return error

    with host.faults.add(FaultRule(operation="list_instances", error=refuse)):
        done = run("list", url)
    assert "cause: /dev/sda: I/O error" in done.err


@pytest.mark.parametrize(
    "call",
    [
        ["list"],
        ["nonsense"],
        ["list", "no-such-host"],
        ["list", "nonsense://host"],
        ["list", "{url}", "--no-such-option"],
        ["list", "{url}", "-o", "xml"],
        ["list", "{url}", "--timeout", "0"],
        ["list", "{url}", "--timeout", "soon"],
        ["volume", "{url}"],
        ["spawn", "{url}", "--image", "host:cirros"],
        ["spawn", "{url}", "--name", "x"],
        ["spawn", "{url}", "--name", "x", "--image", "disk.img"],
        ["spawn", "{url}", "--name", "x", "--image", "ftp://host/disk.raw"],
        ["spawn", "{url}", "--name", "x", "--image", "https://host/disk.raw"],
        ["spawn", "{url}", "--name", "x", "--image", "a.raw", "--checksum", "md5:00"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--memory", "much"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--disk", "1MiB"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--vcpus", "0"],
        ["spawn", "{url}", "--name", "x\x1by", "--image", "host:cirros"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--uuid", "7"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--nic", "type=bridge"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--nic", "bridge:a,x=y"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--nic", "@/nowhere"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--meta", "x"],
        ["spawn", "{url}", "--name", "x", "--image", "host:cirros", "--user-data", "/nowhere"],
        ["spawn", "{url}", "--name", "x", "--format", "raw"],
        ["console-log", "{url}", "web1", "--follow", "-o", "json"],
    ],
)
def test_usage(run: Runner, url: str, host: FakeHost, call: list[str]) -> None:
    done = run(*(each.format(url=url) for each in call))
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert not host.machines


def test_usage_in_json(run: Runner) -> None:
    done = run("list", "-o", "json")
    assert done.code == 2
    assert done.error["hint"] == "hvdrivers list --help"
    assert run("list", "--output=json").error["exit_code"] == 2


def test_a_near_miss_gets_a_suggestion(run: Runner) -> None:
    assert "Did you mean 'spawn'" in run("spwan").err


def test_a_private_key_is_refused(
    run: Runner, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = tmp_path_factory.mktemp("keys") / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    done = run("spawn", url, "--name", "x", "--image", "host:cirros", "--ssh-key", key)
    assert done.code == 2
    assert "private key" in done.err
    assert "AAAA" not in done.err


# ---- naming an instance ----


def test_names_and_beginnings(run: Runner, url: str, make: Make) -> None:
    uuid = make("web1")
    for text in ("web1", str(uuid), str(uuid).upper(), uuid.hex, uuid.hex[:4], str(uuid)[:13]):
        assert run("show", url, text, "-o", "json").data["uuid"] == str(uuid), text
    assert run("show", url, uuid.hex[:3]).code == 1
    assert run("show", url, "web").code == 1


def test_a_name_that_two_have(run: Runner, url: str, make: Make) -> None:
    first, second = make("twin"), make("twin")
    done = run("power", "off", url, "twin")
    assert done.code == 2
    assert str(first) in done.err
    assert str(second) in done.err


def test_a_name_cannot_stand_in_for_a_uuid(run: Runner, url: str, make: Make) -> None:
    victim = make("victim", uuid=UUID("deadbeef-0000-4000-8000-000000000000"))
    impostor = make("deadbeef")
    done = run("destroy", url, "deadbeef", "--yes")
    assert done.code == 2
    assert str(victim) in done.err
    assert str(impostor) in done.err
    assert len(run("list", url, "-o", "json").data) == 2


# ---- destroy ----


def test_destroy_several(run: Runner, url: str, host: FakeHost, make: Make) -> None:
    first, second = make("a"), make("b")
    done = run("destroy", url, "a", second, first, "--yes", "-o", "json")
    assert done.code == 0
    assert [each["outcome"] for each in done.data] == ["destroyed", "destroyed"]
    assert not host.machines


def test_destroy_what_is_not_there(run: Runner, url: str) -> None:
    done = run("destroy", url, uuid4(), "--yes", "-o", "json")
    assert done.code == 0
    assert done.data[0]["outcome"] == "absent"


def test_one_wrong_name_and_nothing_is_destroyed(
    run: Runner, url: str, host: FakeHost, make: Make
) -> None:
    make("a")
    done = run("destroy", url, "a", "b", "--yes")
    assert done.code == 1
    assert "--missing-ok" in done.err
    assert host.machines


def test_an_absent_name_is_a_success_on_request(
    run: Runner, url: str, host: FakeHost, make: Make
) -> None:
    make("a")
    done = run("destroy", url, "a", "b", "--missing-ok", "--yes", "-o", "json")
    assert done.code == 0
    assert [(each["name"], each["outcome"]) for each in done.data] == [
        ("a", "destroyed"),
        ("b", "absent"),
    ]
    assert done.data[1]["uuid"] is None
    assert not host.machines
    assert run("destroy", url, "a", "--missing-ok", "--yes").code == 0


def test_destroy_in_part(run: Runner, url: str, host: FakeHost, make: Make) -> None:
    make("a")
    stubborn = make("b")
    rule = FaultRule(operation="destroy", instance=stubborn)
    with host.faults.add(rule):
        done = run("destroy", url, "a", "b", "--yes", "-o", "json")
        assert done.code == 5
        assert [each["outcome"] for each in done.data] == ["destroyed", "failed"]
        assert run("destroy", url, "b", "--yes").code == 3


def test_destroy_keeps_the_root_disk(run: Runner, url: str, make: Make) -> None:
    uuid = make("a")
    assert run("destroy", url, uuid, "--yes", "--keep", "root-disk").code == 0
    assert f"{uuid}-root" in run("volume", "list", url).out
    checkup = run("doctor", url, "-o", "json")
    assert checkup.code == 5
    [left] = [each for each in checkup.data["checks"] if each["check"] == "left-overs"]
    assert left["status"] == "warn"
    assert str(uuid) in left["detail"]


def test_dry_run_changes_nothing(run: Runner, url: str, host: FakeHost, make: Make) -> None:
    make("a")
    done = run("destroy", url, "a", "--dry-run", "-o", "json")
    assert done.data[0]["outcome"] == "would be destroyed"
    assert host.machines


@pytest.mark.parametrize(
    "call",
    [
        "destroy {url} a",
        "volume delete {url} x",
        "snapshot delete {url} a x",
        "snapshot revert {url} a x",
        "image evict {url} x",
    ],
)
def test_no_terminal_and_no_yes(
    run: Runner, url: str, host: FakeHost, make: Make, call: str
) -> None:
    make("a")
    done = run(*call.format(url=url).split(), input="y\n")
    assert done.code == 2
    assert "--yes" in done.err
    assert host.machines


@pytest.mark.parametrize(("answer", "left"), [(True, 0), (False, 1)])
def test_question(
    run: Runner,
    url: str,
    host: FakeHost,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
    left: int,
) -> None:
    make("a")
    monkeypatch.setattr("hvdrivers.cli.ask.sys", type("S", (), {"stdin": _Terminal})())
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: answer)
    done = run("destroy", url, "a")
    assert len(host.machines) == left
    assert done.code == (0 if answer else 1)
    assert "(a, running)" in done.err


class _Terminal:
    @staticmethod
    def isatty() -> bool:
        return True


# ---- doctor ----


def _statuses(data: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {each["check"]: each["status"] for each in data["checks"]}


def test_doctor_of_a_dead_host(run: Runner, url: str, host: FakeHost) -> None:
    host.stop_answering()
    done = run("doctor", url, "-o", "json")
    assert done.code == 3
    assert "fail" in _statuses(done.data).values()
    assert any(each["hint"] for each in done.data["checks"] if each["status"] == "fail")


def test_doctor_of_a_host_that_denies(run: Runner, url: str, host: FakeHost) -> None:
    def deny() -> errors.HypervisorError:
        return errors.PermissionDenied("read-only account", hint="ask for more")

    with host.faults.add(FaultRule(operation="get_metrics", error=deny)):
        done = run("doctor", url, "-o", "json")
    assert done.code == 3
    assert _statuses(done.data)["permissions"] == "fail"
    assert done.data["worst"] == "fail"


def test_doctor_sees_a_crashed_guest(
    run: Runner, url: str, host: FakeHost, driver: ComputeDriver, make: Make
) -> None:
    uuid = make()
    host.crash(uuid)
    done = run("doctor", url, "-o", "json")
    assert done.code == 5
    assert _statuses(done.data)["instances"] == "warn"


def test_doctor_of_a_broken_driver(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise errors.PluginError("no module named x", hint="pip install 'hvdrivers[x]'")

    monkeypatch.setattr("hvdrivers.plugins.connect", connect)
    done = run("doctor", "x://host")
    assert done.code == 1
    assert "pip install 'hvdrivers[x]'" in done.out


def test_doctor_of_wrong_credentials(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise errors.AuthenticationFailed("wrong password")

    monkeypatch.setattr("hvdrivers.plugins.connect", connect)
    done = run("doctor", "x://host", "-o", "json")
    assert done.code == 3
    assert _statuses(done.data) == {"reachable": "ok", "credentials": "fail"}


# ---- debugging and secrets ----


def test_debug_shows_the_traceback_and_the_operations(run: Runner, url: str) -> None:
    done = run("show", url, uuid4(), "--debug")
    assert "Traceback" in done.err
    assert "operation=get_instance" in done.err
    quiet = run("show", url, uuid4())
    assert "Traceback" not in quiet.err
    assert "operation=get_instance" not in quiet.err


def test_verbose_shows_changes(run: Runner, url: str, make: Make) -> None:
    make("a")
    assert "operation=pause" in run("-v", "power", "pause", url, "a").err
    assert "operation=" not in run("power", "unpause", url, "a").err


def test_a_password_in_the_url_is_never_repeated(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(host: str, **_: object) -> None:
        raise errors.ConnectionFailed(f"cannot reach {host}") from OSError(host)

    monkeypatch.setattr("hvdrivers.plugins.connect", connect)
    for more in ([], ["--debug"], ["-o", "json"]):
        done = run("list", "x://root:hunter%40two@lab1/", *more)
        assert done.code == 3
        assert "lab1" in done.err
        assert "hunter" not in done.err + done.out


def test_a_bug_is_told_as_one(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("hvdrivers.plugins.connect", connect)
    done = run("list", "x://host")
    assert done.code == 1
    assert "bug" in done.err
    assert "Traceback" not in done.err


def test_drivers_lists_the_broken_ones(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from hvdrivers.plugins import PluginInfo

    broken = PluginInfo(
        name="acme",
        distribution="acme-hv",
        version="1.0",
        module="acme.driver:Driver",
        schemes=("acme",),
        usable=False,
        reason="No module named 'acme_sdk'",
        hint="pip install 'acme-hv[sdk]'",
    )
    monkeypatch.setattr("hvdrivers.plugins.list_plugins", lambda: [broken])
    for more in ([], ["-v"], ["-o", "json"], ["-o", "yaml"]):
        done = run("drivers", *more)
        assert done.code == 0
        for text in ("acme-hv", "1.0", "No module named", "acme-hv[sdk]"):
            assert text in done.out


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("fake list", "hvdrivers list fake …"),
        ("qemu:///system power on", "hvdrivers power on qemu:///system …"),
        ("volume fake list", "hvdrivers volume list fake …"),
    ],
)
def test_a_host_in_front_of_the_command(run: Runner, words: str, meant: str) -> None:
    done = run(*words.split())
    assert done.code == ExitCode.USAGE
    assert done.err.splitlines()[-1] == f"hint: the host comes after the command: {meant}"
