"""Every command does what it says, in all three forms of output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml

from hvdrivers.cli.registry import COMMANDS
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeSpec

from .conftest import Runner

Make = Callable[..., UUID]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that no host has."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def prepared(driver: ComputeDriver, make: Make, image: Path) -> dict[str, str]:
    """What the commands below name."""
    running = make("web1", metadata={"role": "web"})
    stopped = make("db1", start=False)
    volume = driver.create_volume(VolumeSpec(name="data", size_gib=1))
    other = driver.create_volume(VolumeSpec(name="more", size_gib=1))
    snapshot = driver.create_snapshot(running, "before")
    return {
        "running": str(running),
        "stopped": str(stopped),
        "volume": volume.volume_id,
        "other": other.volume_id,
        "snapshot": snapshot.id,
        "new": str(uuid4()),
        "image": str(image),
    }


CALLS = [
    "drivers",
    "drivers -v",
    "hosts",
    "doctor {url}",
    "capabilities {url}",
    "resources {url}",
    "resources {url} --placement",
    "maintenance status {url}",
    "events {url} --count 1",
    "metrics {url}",
    "metrics {url} web1",
    "list {url}",
    "list {url} --foreign",
    "show {url} web1",
    "spawn {url} --name new --image host:cirros --uuid {new} --nic network:default",
    "destroy {url} web1 --yes",
    "destroy {url} web1 {stopped} --dry-run",
    "power off {url} web1",
    "power reboot {url} web1 --soft",
    "power pause {url} web1",
    "power on {url} db1",
    "resize {url} db1 --vcpus 2 --memory 1GiB",
    "rename {url} db1 db2",
    "metadata {url} web1",
    "metadata {url} web1 --set a=b --unset role",
    "addresses {url} web1",
    "console-log {url} web1",
    "volume create {url} --size 2 --name third",
    "volume list {url}",
    "volume show {url} {other}",
    "volume attach {url} web1 {volume},readonly",
    "volume detach {url} web1 {volume}",
    "volume delete {url} {other} --yes",
    "volume connector {url}",
    "vif plug {url} web1 bridge:br0,id=port1",
    "vif unplug {url} web1 port1",
    "snapshot create {url} web1 again",
    "snapshot list {url} web1",
    "snapshot revert {url} web1 {snapshot} --yes",
    "snapshot delete {url} web1 {snapshot} --yes",
    "image cache {url} {image}",
    "image list {url}",
    "image evict {url} nothing-here --yes",
    "image reap {url} --yes",
    "conformance list --profile power",
    "conformance explain LIFE-003",
    "conformance run fake --clause LIFE-005",
    "conformance reap {url} --dry-run",
]


def _call(run: Runner, url: str, prepared: dict[str, str], call: str, *more: str) -> Any:
    return run(*call.format(url=url, **prepared).split(), *more)


@pytest.mark.parametrize("call", CALLS)
def test_table(run: Runner, url: str, prepared: dict[str, str], call: str) -> None:
    done = _call(run, url, prepared, call)
    assert done.code in (0, 5 if call.startswith("doctor") else 0), done.err
    assert done.out
    assert "Traceback" not in done.err
    assert "\x1b" not in done.out


@pytest.mark.parametrize("call", CALLS)
def test_json(run: Runner, url: str, prepared: dict[str, str], call: str) -> None:
    done = _call(run, url, prepared, call, "-o", "json")
    assert done.code in (0, 5 if call.startswith("doctor") else 0), done.err
    assert isinstance(done.data, dict | list)


READS = [
    call
    for call in CALLS
    if call.split(maxsplit=1)[0] not in {"spawn", "power", "resize", "rename", "vif"}
    and not re.search(r"--yes|--set|create|attach|detach|cache|conformance run", call)
]
"""Those that say the same a second time."""


@pytest.mark.parametrize("call", READS)
def test_yaml_says_the_same_as_json(
    run: Runner, url: str, prepared: dict[str, str], call: str
) -> None:
    first = _call(run, url, prepared, call, "--output", "yaml")
    second = _call(run, url, prepared, call, "--output", "json")
    assert first.code == second.code
    [loaded] = [each for each in yaml.safe_load_all(first.out) if each is not None]
    changing = {"doctor": "checks", "events": "at"}.get(call.split(maxsplit=1)[0])
    expected = second.data
    if changing is not None:
        del loaded[changing], expected[changing]
    if not call.startswith("metrics"):
        assert json.loads(json.dumps(loaded, default=str)) == expected


def test_every_command_is_called_above() -> None:
    # the others have tests of their own, below and in test_operations.py
    called = {call.split()[0] for call in CALLS}
    here = Path(__file__).parent
    tests = "".join((here / name).read_text() for name in (__file__, "test_operations.py"))
    rest = {name for name in set(COMMANDS) - called - {"new-driver"} if f'"{name}", ' not in tests}
    assert not rest


def test_list_and_show_give_the_models(
    run: Runner, url: str, driver: ComputeDriver, make: Make
) -> None:
    uuid = make("web1", metadata={"a": "b"})
    assert run("list", url, "-o", "json").data == [
        each.model_dump(mode="json") for each in driver.list_instances()
    ]
    shown = run("show", url, "web1", "-o", "json").data
    assert shown.pop("addresses") == []
    assert shown == driver.get_instance(uuid).model_dump(mode="json")


def test_global_options_before_and_after(run: Runner, url: str) -> None:
    assert run("-o", "json", "list", url).data == []
    assert run("list", "-o", "json", url).data == []
    assert run("list", url, "-o", "json").data == []
    assert run("-o", "yaml", "list", url, "-o", "json").data == []


def test_output_from_the_environment(
    run: Runner, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVDRIVERS_OUTPUT", "json")
    assert run("list", url).data == []


def test_dash_is_the_host_of_the_environment(
    run: Runner, url: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("web1")
    monkeypatch.setenv("HVDRIVERS_HOST", url)
    assert run("list", "-", "-o", "json").data[0]["name"] == "web1"
    monkeypatch.delenv("HVDRIVERS_HOST")
    done = run("list", "-")
    assert done.code == 2
    assert "HVDRIVERS_HOST" in done.err


def test_host_from_a_file(run: Runner, host: FakeHost, make: Make, tmp_path: Path) -> None:
    make("web1")
    file = tmp_path / "hosts.toml"
    file.write_text(f'[hosts.lab1]\ndriver = "fake"\nhost = "{host.name}"\n')
    assert run("--config", file, "list", "lab1", "-o", "json").data[0]["name"] == "web1"
    assert run("list", f"fake://{host.name}", "--config", file, "-o", "json").code == 0
    assert run("hosts", "--config", file, "-o", "json").data == [{"name": "lab1", "driver": "fake"}]
    missing = run("list", "lab2", "--config", file)
    assert missing.code == 2
    assert "lab1" in missing.err


def test_config_from_the_environment(
    run: Runner, host: FakeHost, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("web1")
    file = tmp_path / "hosts.toml"
    file.write_text(f'[hosts.lab1]\ndriver = "fake"\nhost = "{host.name}"\n')
    monkeypatch.setenv("HVDRIVERS_CONFIG", str(file))
    assert run("list", "lab1", "-o", "json").data[0]["name"] == "web1"


def test_spawn_takes_everything(
    run: Runner, url: str, host: FakeHost, driver: ComputeDriver, tmp_path: Path
) -> None:
    volume = driver.create_volume(VolumeSpec(name="data", size_gib=1))
    user_data, key = tmp_path / "user-data", tmp_path / "id.pub"
    user_data.write_text("#cloud-config\npassword: s3cret-word\n")
    key.write_text("# mine\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here\n")
    uuid = uuid4()
    done = run(
        *("spawn", url, "--name", "db1", "--image", "host:cirros", "--uuid", uuid),
        *("--vcpus", 2, "--memory", "2GiB", "--disk", "20GiB", "--hostname", "db1.example"),
        *("--nic", "bridge:br0,mac=52:54:00:12:34:56", "--nic", "type=ovs,bridge=br-int"),
        *("--volume", f"{volume.volume_id},bus=scsi", "--user-data", user_data, "--ssh-key", key),
        *("--meta", "role=db", "--meta", "note=a=b", "--uefi", "--secure-boot", "--vtpm"),
        *("--no-start", "-o", "json"),
    )
    assert done.code == 0, done.err
    info = done.data
    assert info["uuid"] == str(uuid)
    assert info["state"] == "stopped"
    assert info["flavor"]["memory_mib"] == 2048
    assert info["flavor"]["disk_gib"] == 20
    assert info["metadata"] == {"role": "db", "note": "a=b"}
    assert info["firmware"] == "uefi"
    assert [each["type"] for each in info["vifs"]] == ["bridge", "ovs"]
    assert info["vifs"][0]["address"] == "52:54:00:12:34:56"
    assert info["volumes"][0]["volume_id"] == volume.volume_id
    seed = b"".join(host.seed_files(uuid).values())
    assert b"s3cret-word" in seed
    assert b"me@here" in seed
    assert "s3cret-word" not in done.out + done.err


def test_spawn_from_a_volume(run: Runner, url: str, driver: ComputeDriver) -> None:
    volume = driver.create_volume(VolumeSpec(name="root", size_gib=1))
    done = run("spawn", url, "--name", "v", "--volume", f"{volume.volume_id},boot=0", "-o", "json")
    assert done.code == 0, done.err
    assert done.data["volumes"][0]["boot_index"] == 0


def test_spawn_from_a_file(run: Runner, url: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    done = run("spawn", url, "--name", "f", "--image", image, "-o", "json")
    assert done.code == 0, done.err
    assert done.data["image"].startswith("raw-sha256-")


def test_the_same_spawn_makes_the_same_nics(run: Runner, url: str) -> None:
    uuid = uuid4()
    call = ("spawn", url, "--name=a", "--image=host:cirros", f"--uuid={uuid}", "--nic=bridge:br0")
    first = run(*call, "-o", "json").data["vifs"]
    run("destroy", url, uuid, "--yes")
    assert run(*call, "-o", "json").data["vifs"] == first


def test_power(run: Runner, url: str, driver: ComputeDriver, make: Make) -> None:
    uuid = make()
    for action, state in (
        ("pause", "paused"),
        ("unpause", "running"),
        ("suspend", "suspended"),
        ("resume", "running"),
        ("off", "stopped"),
        ("on", "running"),
        ("reboot", "running"),
    ):
        assert run("power", action, url, uuid, "-o", "json").data["state"] == state
    assert run("power", "off", url, uuid, "--graceful", 5).code == 0
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    assert run("power", "on", url, uuid, "--graceful", 5).code == 2
    assert run("power", "on", url, uuid, "--soft").code == 2
    assert run("power", "explode", url, uuid).code == 2


def test_resize_running_and_stopped(run: Runner, url: str, make: Make) -> None:
    from hvdrivers.models.instance import Flavor

    flavor = Flavor(vcpus=1, memory_mib=512, max_vcpus=4, max_memory_mib=2048)
    uuid = make("grow", flavor=flavor)
    done = run("resize", url, uuid, "--vcpus", 2, "--memory", "1GiB", "-o", "json")
    assert done.code == 0, done.err
    assert (done.data["flavor"]["vcpus"], done.data["flavor"]["memory_mib"]) == (2, 1024)
    half = run("resize", url, uuid, "--vcpus", 3, "--memory", "64GiB")
    assert half.code == 5
    assert "the CPUs have been changed" in half.err
    run("power", "off", url, uuid)
    done = run("resize", url, uuid, "--disk", "5", "-o", "json")
    assert done.data["flavor"]["disk_gib"] == 5
    assert run("resize", url, uuid).code == 2
    assert run("resize", url, uuid, "--vcpus", 9).code == 2


def test_metadata(run: Runner, url: str, driver: ComputeDriver, make: Make) -> None:
    uuid = make("web1", metadata={"role": "web", "keep": "x"})
    done = run("metadata", url, uuid, "--set", "a=b=c", "--unset", "role", "-o", "json")
    assert done.data == {"keep": "x", "a": "b=c"} == dict(driver.get_instance(uuid).metadata)
    assert run("metadata", url, uuid, "--set", "novalue").code == 2


def test_adopt(run: Runner, url: str, host: FakeHost) -> None:
    foreign = host.add_foreign(name="theirs")
    listed = run("list", url, "--foreign", "-o", "json").data
    assert [each["uuid"] for each in listed] == [str(foreign)]
    assert run("adopt", url, foreign, "--name", "ours", "-o", "json").data["name"] == "ours"
    assert run("adopt", url, "theirs").code == 2


def test_volume_round_trip(run: Runner, url: str, make: Make) -> None:
    uuid = make()
    made = run("volume", "create", url, "--size", "2GiB", "--name", "d", "-o", "json").data
    volume = made["volume_id"]
    attached = run("volume", "attach", url, uuid, f"{volume},readonly", "-o", "json").data
    assert attached["volume_id"] == volume
    assert attached["read_only"] is True
    assert run("volume", "delete", url, volume, "--yes").code == 1  # busy
    detached = run("volume", "detach", url, uuid, volume, "-o", "json").data
    assert detached["volumes"] == []
    assert run("volume", "delete", url, volume, "--yes").code == 0
    assert run("volume", "list", url, "-o", "json").data == []
    assert run("volume", "attach", url, uuid, "no-such").code == 1


def test_volume_of_a_server(run: Runner, url: str, make: Make, tmp_path: Path) -> None:
    uuid, file = make(), tmp_path / "connection.json"
    file.write_text(
        json.dumps(
            {
                "driver_volume_type": "iscsi",
                "serial": "vol-1",
                "data": {
                    "target_portal": "10.0.0.1:3260",
                    "target_iqn": "iqn.2010-10.org.openstack:vol-1",
                    "target_lun": 1,
                    "auth_method": "CHAP",
                    "auth_username": "user",
                    "auth_password": "chap-s3cret",
                },
            }
        )
    )
    done = run("volume", "attach", url, uuid, f"@{file}", "-o", "json")
    assert done.code == 0, done.err
    assert done.data["volume_id"] == "vol-1"
    file.write_text("{")
    assert run("volume", "attach", url, uuid, f"@{file}").code == 2


def test_vif_round_trip(run: Runner, url: str, make: Make) -> None:
    uuid = make()
    made = run("vif", "plug", url, uuid, "network:default,mac=52:54:00:00:00:07", "-o", "json").data
    assert made["address"] == "52:54:00:00:00:07"
    assert run("vif", "unplug", url, uuid, made["id"], "-o", "json").data["vifs"] == []
    assert run("vif", "plug", url, uuid, "bridge:no-such-bridge-here").code == 2  # too long a name
    assert run("vif", "plug", url, uuid, "bridge:br9").code == 1


def test_snapshots(run: Runner, url: str, make: Make, tmp_path: Path) -> None:
    uuid = make()
    made = run("snapshot", "create", url, uuid, "one", "--memory", "-o", "json").data
    assert made["with_memory"] is True
    assert run("snapshot", "list", url, uuid, "-o", "json").data[0]["id"] == made["id"]
    assert run("snapshot", "revert", url, uuid, made["id"], "--yes").code == 0
    assert run("snapshot", "delete", url, uuid, made["id"], "--yes").code == 0
    target = tmp_path / "disk.qcow2"
    assert run("snapshot", "export", url, uuid, target, "-o", "json").code == 0
    assert target.exists()
    assert run("snapshot", "export", url, uuid, target, "--format", "zip").code == 2


def test_images(run: Runner, url: str, image: Path) -> None:
    key = run("image", "cache", url, image, "-o", "json").data["key"]
    assert [each["key"] for each in run("image", "list", url, "-o", "json").data] == [key]
    assert run("image", "evict", url, key, "--yes").code == 0
    assert run("image", "list", url, "-o", "json").data == []


def test_maintenance(run: Runner, url: str) -> None:
    assert run("maintenance", "on", url, "-o", "json").data == {"maintenance": True}
    assert "in maintenance" in run("doctor", url).out
    assert run("maintenance", "off", url, "-o", "json").data == {"maintenance": False}


def test_migrate(run: Runner, url: str, host: FakeHost, make: Make) -> None:
    uuid = make()
    there = host.world.host("cli-destination")
    plan = run("migrate", url, uuid, "cli-destination", "--check", "-o", "json")
    assert plan.code == 0, plan.err
    assert plan.data["blockers"] == []
    blocked = run("migrate", url, uuid, "no-such-host", "--check", "-o", "json")
    assert blocked.code == 1
    assert blocked.data["blockers"]
    assert run("migrate", url, uuid, "cli-destination", "-o", "json").code == 0
    assert uuid in there.machines
    assert run("migrate", url, uuid, "x", "--check", "--cold").code == 2


def test_capabilities_have_reasons(run: Runner, url: str) -> None:
    rows = run("capabilities", url, "-o", "json").data
    assert all(row["available"] == (row["reason"] is None) for row in rows)


def test_sets_have_one_order(run: Runner, url: str) -> None:
    features = run("resources", url, "-o", "json").data["cpu"]["features"]
    assert features == sorted(features)
