"""Each operation of the contract has a command, and the commands for the rarer ones work."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

import hvdrivers.cli
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.driverkit import staging_name
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.records import ImageRecord
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec

from .conftest import Runner

Make = Callable[..., UUID]

WITHOUT_A_COMMAND = {"close": "each command ends its connection, by the driver's with statement"}
"""Operations that no command calls, each with the reason."""


def _called() -> set[str]:
    """Names of what the command's code calls on a driver, read from its source."""
    found = set()
    for path in Path(hvdrivers.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "driver":
                found.add(node.attr)
    return found


def test_every_operation_has_a_command() -> None:
    called = _called()
    assert set(OPERATIONS) - called == set(WITHOUT_A_COMMAND)
    assert all(WITHOUT_A_COMMAND.values())


def test_power_on_paused(run: Runner, url: str, make: Make) -> None:
    uuid = make(start=False)
    done = run("power", "on", url, uuid, "--paused", "-o", "json")
    assert done.data["state"] == "paused", done.err


def test_rescue_and_rebuild(run: Runner, url: str, make: Make, tmp_path: Path) -> None:
    uuid = make()
    assert run("rescue", url, uuid, "-o", "json").data["state"] == "rescued"
    assert run("unrescue", url, uuid, "-o", "json").data["state"] == "running"
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    before = run("show", url, uuid, "-o", "json").data["image"]
    after = run("rebuild", url, uuid, image, "--yes", "-o", "json").data["image"]
    assert after != before
    assert run("rebuild", url, uuid, image).code == 2  # nobody to ask
    assert run("rescue", url, uuid, "--format", "raw").code == 2  # of which image?


def test_consoles(run: Runner, url: str, make: Make, tmp_path: Path) -> None:
    uuid = make()
    access = run("console", url, uuid, "vnc", "-o", "json").data
    assert access["kind"] == "vnc"
    assert access["ticket"] is None or "*" not in access["ticket"]
    assert run("console", url, uuid, "telepathy").code == 2
    target = tmp_path / "screen"
    written = run("screenshot", url, uuid, target, "-o", "json").data
    assert target.stat().st_size == written["bytes"] > 0
    assert run("screenshot", url, uuid, target).code == 2  # it is there


def test_guest(
    run: Runner, url: str, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uuid = make()
    done = run("guest", "exec", url, uuid, "-o", "json", "--", "/bin/echo", "-n", "hello")
    assert done.data["exit_code"] == 0, done.err
    shown = run("guest", "exec", url, uuid, "--", "/bin/echo", "hello")
    assert shown.code == 0
    assert shown.raw  # the guest's own bytes
    assert run("guest", "freeze", url, uuid, "-o", "json").data["outcome"] == "frozen"
    assert run("guest", "thaw", url, uuid, "-o", "json").data["outcome"] == "thawed"
    monkeypatch.setenv("NEW", "very-s3cret")
    done = run("guest", "password", url, uuid, "root", "--password-env", "NEW", "-o", "json")
    assert done.code == 0
    assert "very-s3cret" not in done.out + done.err
    assert run("guest", "password", url, uuid, "root", "--password-env", "NOT_SET").code == 2
    assert run("guest", "exec", url, uuid, "--as", "root", "--", "/bin/true").code == 2


def test_limits_and_swap(
    run: Runner, url: str, host: FakeHost, driver: ComputeDriver, make: Make
) -> None:
    volume, other = (driver.create_volume(VolumeSpec(name=n, size_gib=1)) for n in ("a", "b"))
    uuid = make(
        volumes=(VolumeAttachment(volume=volume),), vifs=(BridgeVif(id="port0", bridge="br0"),)
    )
    disk = host.machines[uuid].volumes
    assert run("volume", "qos", url, uuid, volume.volume_id, "--limit", "read_iops_sec=9").code == 0
    [held] = disk.values() if isinstance(disk, dict) else disk
    assert "9" in repr(held)
    assert run("volume", "qos", url, uuid, volume.volume_id, "--none").code == 0
    assert run("volume", "qos", url, uuid, volume.volume_id).code == 2
    assert run("volume", "qos", url, uuid, volume.volume_id, "--limit", "speed=9").code == 2
    assert run("vif", "qos", url, uuid, "port0", "--inbound", "average=1000,peak=2000").code == 0
    assert run("vif", "qos", url, uuid, "port0", "--none").code == 0
    assert run("vif", "qos", url, uuid, "port0", "--inbound", "average=quick").code == 2
    swapped = run("volume", "swap", url, uuid, volume.volume_id, other.volume_id, "-o", "json")
    assert swapped.data["volume_id"] == other.volume_id, swapped.err


def test_reconnect(run: Runner, url: str, driver: ComputeDriver, make: Make) -> None:
    uuid = make(vifs=(BridgeVif(id="port0", bridge="br0"),), start=False)
    done = run("reconnect", url, uuid, "--nic", "network:default,id=port0", "-o", "json")
    assert [each["type"] for each in done.data["vifs"]] == ["network"], done.err
    assert run("reconnect", url, uuid).code == 2


def test_backup(run: Runner, url: str, make: Make) -> None:
    uuid = make()
    first = run("backup", "begin", url, uuid, "-o", "json").data
    assert run("backup", "end", url, uuid, first["id"]).code == 0
    second = run("backup", "begin", url, uuid, "--since", first["id"], "-o", "json").data
    assert second["since"] == first["id"]
    assert run("backup", "end", url, uuid, "-o", "json").data["outcome"] == "closed"


def test_shares(run: Runner, url: str, make: Make) -> None:
    uuid = make(start=False)
    call = ("share", "attach", url, uuid, "data", "/srv/share")
    assert run(*call, "--readonly", "-o", "json").data["read_only"] is True
    assert run(*call).code == 2  # another meaning of the same tag
    assert run("share", "detach", url, uuid, "data").code == 0


def test_storage_moves(run: Runner, url: str, host: FakeHost, make: Make) -> None:
    uuid = make()
    assert run("migrate-storage", url, uuid, "fast").code == 0
    assert {pool.name for pool, _ in host.disks_of(uuid)} == {"fast"}
    assert run("migrate-storage", url, uuid, "nowhere").code == 1


def test_migration_in_progress(run: Runner, url: str, make: Make) -> None:
    uuid = make()
    assert run("migration", "progress", url, uuid, "-o", "json").data["phase"] == "none"
    assert run("migration", "abort", url, uuid).code == 0
    assert run("migration", "force", url, uuid).code == 1  # none runs


def test_a_move_in_steps(run: Runner, url: str, host: FakeHost, make: Make, tmp_path: Path) -> None:
    there = host.world.host("cli-move-destination")
    over_there = f"fake://{there.name}"
    uuid = make(start=False)
    file = tmp_path / "move.json"
    done = run("move", "prepare", url, uuid, there.name, "--vcpus", 2, "-o", "json")
    assert done.code == 0, done.err
    file.write_text(done.out)
    assert run("show", url, uuid, "-o", "json").data["move"] == "prepared"
    finished = run("move", "finish", over_there, file, "-o", "json")
    assert finished.data["flavor"]["vcpus"] == 2, finished.err
    assert run("destroy", over_there, uuid, "--yes").code == 0
    assert run("move", "revert", url, uuid, "-o", "json").data["flavor"]["vcpus"] == 1
    # and once more, to its end, through a pipe
    done = run("move", "prepare", url, uuid, there.name, "-o", "json")
    assert run("move", "finish", over_there, "-", input=done.out).code == 0
    assert run("move", "confirm", url, uuid, "-o", "json").data["outcome"] == "confirmed"
    assert uuid not in host.machines
    assert there.machines[uuid].state is InstanceState.STOPPED
    assert run("move", "finish", url, "-", input="[]").code == 2
    assert run("move", "prepare", url, uuid, "--storage", "fast").code == 2


def test_a_moves_password_is_given_again(
    run: Runner, url: str, host: FakeHost, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THERE", "pass-s3cret")
    there = host.world.host("cli-secret-destination")
    uuid = make(start=False, flavor=Flavor(vcpus=1, memory_mib=512))
    done = run(
        *("move", "prepare", url, uuid, there.name, "--user", "admin"),
        *("--password-env", "THERE", "-o", "json"),
    )
    assert done.code == 0, done.err
    assert "pass-s3cret" not in done.out
    assert "*" in json.loads(done.out)["destination"]["password"]
    call = ("move", "finish", f"fake://{there.name}", "-", "--password-env", "THERE")
    assert run(*call, input=done.out).code == 0


def test_host_power(run: Runner, url: str, make: Make) -> None:
    uuid = make()
    assert run("host-power", url, "reboot", "--yes").code == 1  # something runs
    assert run("power", "off", url, uuid).code == 0
    assert run("host-power", url, "explode", "--yes").code == 2
    assert run("host-power", url, "reboot").code == 2  # nobody to ask
    assert run("host-power", url, "reboot", "--yes", "-o", "json").code == 0


def test_what_a_killed_upload_has_left(run: Runner, url: str, host: FakeHost) -> None:
    """B15 of the list of faults found by use: it was shown by no command for a day."""
    key = "raw-sha256-" + "0" * 64
    left, alive = staging_name(key), staging_name(key)
    for name, age in ((left, timedelta(hours=1)), (alive, timedelta())):
        host.default_pool.uploads[name] = ImageRecord(
            key, ImageFormat.RAW, 0, 139 << 20, (), last_written=host.clock.wall() - age
        )
    listed = run("image", "list", url, "-o", "json").data
    assert {each["key"]: each["partial"] for each in listed} == {left: True, alive: True}
    checks = {each["check"]: each for each in run("doctor", url, "-o", "json").data["checks"]}
    assert "278 MiB" in checks["image cache"]["detail"]
    assert left in checks["image cache"]["detail"]
    assert "hvdrivers image reap" in checks["image cache"]["hint"]
    only_shown = run("image", "reap", url, "--dry-run", "-o", "json").data
    assert {each["outcome"] for each in only_shown} == {"found"}
    assert run("image", "reap", url).code == 2  # nobody to ask
    done = run("image", "reap", url, "--yes", "-o", "json").data
    assert {each["key"]: each["outcome"] for each in done} == {left: "removed", alive: "kept"}
    assert set(host.default_pool.uploads) == {alive}


def test_the_next_upload_removes_what_a_dead_one_has_left(
    run: Runner, url: str, host: FakeHost, tmp_path: Path
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    name = staging_name("raw-sha256-" + "0" * 64)
    host.default_pool.uploads[name] = ImageRecord(
        "raw", ImageFormat.RAW, 0, 1, (), last_written=host.clock.wall() - timedelta(hours=2)
    )
    assert run("image", "cache", url, image).code == 0
    assert not host.default_pool.uploads
