"""``spawn``: the instance's size, own disks, seed disc, NUMA nodes, devices and hardware."""

from __future__ import annotations

import inspect
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.cli import machine
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.spawn import spawn_instance
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.models.hardware import CpuTopology, Hardware, TpmModel, VideoModel, WatchdogAction
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.vif.common import NicModel
from hvdrivers.models.volume.attachment import DeviceType, DiskBus

from .conftest import Runner
from .test_sizes import SIZES

GPU, SLICED, FUNCTION = "0000:17:00.0", "0000:65:00.0", "0000:03:10.1"
OPTIONS = {  # a field of InstanceSpec, and the options that say it
    "uuid": {"uuid"},
    "name": {"name"},
    "flavor": {*SIZES.values(), "ephemeral", "swap"},
    "image": {"image", "image_format", "checksum"},
    "volumes": {"volume"},
    "vifs": {"nic"},
    "cloud_init": {"user_data", "ssh_key", "hostname"},
    "seed": {"seed"},
    "metadata": {"meta"},
    "firmware": {"uefi"},
    "secure_boot": {"secure_boot"},
    "vtpm": {"vtpm"},
    "sev": {"sev"},
    "disks": {"disk", "ephemeral", "swap"},
    "hardware": {"hardware"},
    "numa": {"numa"},
    "pci_devices": {"pci"},
    "vgpus": {"vgpu"},
    "server_group": {"server_group"},
    "start": {"no_start"},
    "start_as": {"paused"},
}
SPAWN = ("--name", "db1", "--image", "host:cirros", "-o", "json")


def test_every_field_has_an_option() -> None:
    assert set(OPTIONS) == set(InstanceSpec.model_fields)
    options = set(inspect.signature(spawn_instance).parameters) - {"session", "host"}
    assert set().union(*OPTIONS.values()) == options


def test_own_disks_reach_the_host(run: Runner, url: str, host: FakeHost) -> None:
    disks = ("--ephemeral", "2,fs=ext4,label=data", "--ephemeral", "1GiB,bus=scsi")
    done = run("spawn", url, *SPAWN, "--disk", "20,bus=sata", *disks, "--swap", "512,label=swap")
    assert done.code == 0, done.err
    flavor = done.data["flavor"]
    sizes = ("disk_gib", "ephemeral_gib", "swap_mib")
    assert [flavor[each] for each in sizes] == [20, 3, 512]
    made = {disk.role: disk for _, disk in host.disks_of(UUID(done.data["uuid"]))}
    assert {name: disk.size_bytes >> 20 for name, disk in made.items()} == {
        "root": 20 << 10,
        "ephemeral": 2 << 10,
        "ephemeral-1": 1 << 10,
        "swap": 512,
    }
    assert made["ephemeral"].content == ("formatted:ext4:data",)
    wishes = {name: disk.wish for name, disk in made.items()}
    assert {name: wish and (wish.bus, wish.label) for name, wish in wishes.items()} == {
        "root": ("sata", None),
        "ephemeral": (None, "data"),
        "ephemeral-1": ("scsi", None),
        "swap": (None, "swap"),
    }


def test_sizes_alone_are_the_flavors() -> None:
    """A driver that takes no field of ``OwnDisk`` still makes such disks."""
    assert machine.disks("20", ["5"], "1GiB") == (
        {"disk_gib": 20, "ephemeral_gib": 5, "swap_mib": 1024},
        [],
    )
    assert machine.disks("0", [], None) == ({"disk_gib": 0, "ephemeral_gib": 0}, [])


def test_a_kept_disk_comes_back(
    run: Runner, url: str, driver: ComputeDriver, host: FakeHost
) -> None:
    """What ``destroy --keep`` leaves is spawned from, without an image."""
    first = run("spawn", url, *SPAWN, "--ephemeral", "1").data["uuid"]
    keep = ("--keep", "root-disk", "--keep", "ephemeral-disks")
    assert run("destroy", url, first, "--yes", *keep).code == 0
    root, data = (f"default/{first}-{name}" for name in ("root", "ephemeral"))
    assert {each.volume_id for each in driver.list_volumes()} == {root, data}
    again = ("spawn", url, "--name", "db2", "-o", "json")
    assert run(*again, "--ephemeral", f"1,kept={data}").code == 2  # nothing to boot from
    done = run(*again, "--disk", f"0,kept={root}", "--ephemeral", f"1,kept={data}")
    assert done.code == 0, done.err
    assert driver.list_volumes() == []
    assert {disk.role for _, disk in host.disks_of(UUID(done.data["uuid"]))} == {
        "root",
        "ephemeral",
    }
    gone = run(*again, "--disk", f"0,kept={root}")
    assert (gone.code, gone.error["type"]) == (1, "VolumeNotFound"), gone.err


def test_numa_reaches_the_host(
    run: Runner, url: str, driver: ComputeDriver, host: FakeHost
) -> None:
    cell = driver.get_available_resource().numa_cells[0]
    first, second = sorted(cell.cpus)[:2]
    node = f"cell={cell.id},vcpus=0-1,memory=1GiB,cpus={second}+{first}"
    uuid = uuid4()
    call = ("spawn", url, *SPAWN, "--uuid", uuid, "--vcpus", 2, "--memory", "1GiB")
    done = run(*call, "--numa", node)
    assert done.code == 0, done.err
    assert host.machines[uuid].numa == (
        NumaNode(cell=cell.id, vcpus={0, 1}, memory_mib=1024, cpus={0: second, 1: first}),
    )
    done = run("spawn", url, *SPAWN, "--vcpus", 4, "--numa-nodes", 2)
    assert done.data["flavor"]["numa_nodes"] == 2, done.err
    assert run("spawn", url, *SPAWN, "--vcpus", 3, "--numa-nodes", 2).code == 2
    assert run("spawn", url, *SPAWN, "--vcpus", 2, "--numa", "cell=0,vcpus=0,memory=1GiB").code == 2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--vcpus", 2, "--max-vcpus", 4), {"vcpus": 2, "max_vcpus": 4}),
        (("--max-memory", "2GiB"), {"memory_mib": 1024, "max_memory_mib": 2048}),
        (("--max-memory", "1024"), {"max_memory_mib": 1024}),
        (("--cpu-policy", "dedicated"), {"cpu_policy": "dedicated"}),
        (("--cpu-policy", "shared"), {"cpu_policy": "shared"}),
        (("--page-size", "2048"), {"page_size_kib": 2048}),
        (("--page-size", "1GiB"), {"page_size_kib": 1 << 20}),
        (
            (),
            {
                "max_vcpus": None,
                "max_memory_mib": None,
                "cpu_policy": "shared",
                "page_size_kib": None,
            },
        ),
    ],
)
def test_the_flavor_reaches_the_host(
    run: Runner, url: str, host: FakeHost, options: tuple[object, ...], wanted: dict[str, object]
) -> None:
    done = run("spawn", url, *SPAWN, *options)
    assert done.code == 0, done.err
    assert {name: done.data["flavor"][name] for name in wanted} == wanted
    made = host.machines[UUID(done.data["uuid"])].flavor.model_dump(mode="json")
    assert {name: made[name] for name in wanted} == wanted


def test_hardware_reaches_the_host(run: Runner, url: str, host: FakeHost) -> None:
    wishes = {
        "machine_type": "q35",
        "disk-bus": "sata",
        "nic_model": "e1000",
        "video": "none",
        "cpu-topology": "cores=2,threads=2",
        "watchdog": "poweroff",
        "rng": "true",
        "tpm-model": "crb",
    }
    assert {name.replace("-", "_") for name in wishes} == set(Hardware.model_fields)
    options = [word for each in wishes.items() for word in ("--hardware", "=".join(each))]
    done = run("spawn", url, *SPAWN, "--vcpus", 2, "--max-vcpus", 4, "--vtpm", *options)
    assert done.code == 0, done.err
    assert host.machines[UUID(done.data["uuid"])].hardware == Hardware(
        machine_type="q35",
        disk_bus=DiskBus.SATA,
        nic_model=NicModel.E1000,
        video=VideoModel.NONE,
        cpu_topology=CpuTopology(cores=2, threads=2),
        watchdog=WatchdogAction.POWER_OFF,
        rng=True,
        tpm_model=TpmModel.CRB,
    )


def test_devices_reach_the_host(run: Runner, url: str, host: FakeHost) -> None:
    options = ("--pci", "0:17:0.0", "--pci", FUNCTION, "--vgpu", f"fake-4q,parent={SLICED}")
    group = ("--server-group", "web,policy=anti-affinity")
    done = run("spawn", url, *SPAWN, *options, "--vgpu", "fake-4q", "--sev", *group)
    assert done.code == 0, done.err
    uuid = UUID(done.data["uuid"])
    claims = [(each.use, each.address, each.slice) for each in host.claims if each.owner == uuid]
    assert sorted(claims, key=str) == [
        ("passthrough", FUNCTION, None),
        ("passthrough", GPU, None),
        ("vgpu", SLICED, "fake-4q"),
        ("vgpu", SLICED, "fake-4q"),
    ]
    assert host.machines[uuid].sev
    assert done.data["server_group"] == {"name": "web", "policy": "anti-affinity"}
    assert "fake-4q of 0000:65:00.0: 2 left" in run("resources", url).out
    taken = run("spawn", url, *SPAWN, "--pci", GPU)
    assert (taken.code, taken.error["type"]) == (1, "InsufficientResources"), taken.err


def test_a_seed_disc_reaches_the_host(
    run: Runner, url: str, host: FakeHost, tmp_path: Path
) -> None:
    disc = tmp_path / "a,disc.iso"
    disc.write_bytes(b"secret" * 200)
    name = str(disc).replace(",", ",,")
    done = run("spawn", url, *SPAWN, "--seed", f"{name},label=cidata,bus=virtio,type=disk")
    assert done.code == 0, done.err
    made = host.machines[UUID(done.data["uuid"])].seed_disc
    assert made is not None
    assert made.content is not None
    assert made.content.get_secret_value() == disc.read_bytes()
    assert (made.label, made.bus, made.device_type) == ("cidata", DiskBus.VIRTIO, DeviceType.DISK)
    plain = run("spawn", url, *SPAWN, "--seed", name)
    made = host.machines[UUID(plain.data["uuid"])].seed_disc
    assert made is not None
    assert (made.bus, made.device_type) == (None, DeviceType.CDROM)
    both = run("spawn", url, *SPAWN, "--seed", name, "--hostname", "web")
    assert both.code == 2
    assert "--seed" in both.error["message"]
    assert both.error["hint"] == "give --seed, or those"
    rescued = run("rescue", url, plain.data["uuid"], "--seed", f"{name},label=rescue", "-o", "json")
    assert rescued.code == 0, rescued.err
    meanwhile = host.machines[UUID(plain.data["uuid"])].rescue_seed
    assert meanwhile is not None
    assert meanwhile.label == "rescue"


@pytest.mark.parametrize(
    ("options", "state"),
    [((), "running"), (("--paused",), "paused"), (("--no-start",), "stopped")],
)
def test_the_state_it_comes_out_in(
    run: Runner, url: str, options: tuple[str, ...], state: str
) -> None:
    done = run("spawn", url, *SPAWN, *options)
    assert done.data["state"] == state, done.err


def test_paused_is_started(run: Runner, url: str, host: FakeHost) -> None:
    done = run("spawn", url, *SPAWN, "--paused", "--no-start")
    assert done.code == 2
    assert done.error["hint"] == "give --paused or --no-start, not both"
    assert host.machines == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vcpus", 4, "--max-vcpus", 2), "max_vcpus is below vcpus"),
        (("--max-vcpus", 9999), "max_vcpus: "),
        (("--memory", "2GiB", "--max-memory", "1GiB"), "max_memory_mib is below memory_mib"),
        (("--page-size", "1"), "page_size_kib: "),
        (("--hardware", "tpm_model=tis"), "tpm_model needs vtpm"),
        (("--hardware", "cpu_topology=cores=2"), "cpu_topology has 2 CPUs, and the flavor 1"),
    ],
)
def test_options_that_do_not_fit_each_other(
    run: Runner, url: str, host: FakeHost, options: tuple[object, ...], message: str
) -> None:
    done = run("spawn", url, *SPAWN, *options)
    assert done.code == 2
    assert message in done.error["message"], done.err
    assert done.error["hint"] == "hvdrivers spawn --help"
    assert host.machines == {}


@pytest.mark.parametrize(
    ("option", "text", "hint"),
    [
        ("--max-memory", "much", "write it like"),
        ("--page-size", "huge", "write it like"),
        ("--hardware", "rng", "the fields are machine_type, "),
        ("--hardware", "sound=ich9", "the fields are machine_type, "),
        ("--hardware", "video=\x1b[2J", "the fields are machine_type, "),
        ("--hardware", "cpu_topology=4", "the fields are machine_type, "),
        ("--hardware", "cpu_topology=dies=2", "the fields are machine_type, "),
        ("--hardware", "machine_type=q35'/><x a='", "the fields are machine_type, "),
        ("--cpu-policy", "pinned", "it is shared or dedicated"),
        ("--pci", "eth0", "write it like 0000:03:10.1"),
        ("--vgpu", "fake-4q,parent=gpu", "write it like nvidia-63,parent="),
        ("--vgpu", "fake-4q,kind=x", "write it like nvidia-63,parent="),
        ("--seed", "/nowhere/disc.iso", "write it like disc.iso"),
        ("--seed", "/dev/null", "write it like disc.iso"),
        ("--seed", "/dev/zero", "write it like disc.iso"),
        ("--seed", "/dev/zero,bus=virtio", "write it like disc.iso"),
    ],
)
def test_a_hint_says_how_to_write_it(
    run: Runner, url: str, option: str, text: str, hint: str
) -> None:
    done = run("spawn", url, *SPAWN, option, text)
    assert done.code == 2
    assert done.error["message"].startswith(option), done.err
    assert hint in done.error["hint"]


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_terminal_survives_a_hostile_field(run: Runner, url: str, output: str) -> None:
    hostile = "\x1b]0;x\x07\u202ey"
    for text in (hostile, f"{hostile}=1", f"video={hostile}", f"cpu_topology={hostile}=1"):
        done = run("spawn", url, *SPAWN[:-1], output, "--hardware", text)
        assert done.code == 2
        assert "--hardware" in done.err
        assert not {"\x1b", "\x07", "\u202e"} & set(done.err + done.out)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--max-memory", ""),
        ("--max-memory", "1.5"),
        ("--cpu-policy", ""),
        ("--cpu-policy", "Dedicated"),
        ("--page-size", ""),
        ("--page-size", "0.5"),
        ("--hardware", ""),
        ("--hardware", "=q35"),
        ("--hardware", "machine_type="),
        ("--hardware", "machine_type=../../x"),
        ("--hardware", "disk_bus=floppy"),
        ("--hardware", "nic_model=virtio "),
        ("--hardware", "rng=maybe"),
        ("--hardware", "cpu_topology=4"),
        ("--hardware", "cpu_topology=sockets=0"),
        ("--hardware", "cpu_topology=sockets=1,sockets=1"),
        ("--hardware", "cpu_topology=sockets=two"),
        ("--pci", ""),
        ("--pci", "0000:03:10.1,0000:03:10.2"),
        ("--pci", "0000:03:20.0"),
        ("--vgpu", ""),
        ("--vgpu", "\x1b[2J"),
        ("--vgpu", "fake-4q,parent"),
        ("--vgpu", "fake-4q,type=other"),
        ("--seed", ""),
        ("--seed", "/"),
        ("--seed", "\0"),
        ("--seed", "disc.iso,content=x"),
        ("--seed", "disc.iso,path=/etc/shadow"),
        ("--seed", "disc.iso,type=lun"),
        ("--seed", "disc.iso,label=two words"),
        ("--disk", "20,fs=ext4"),
        ("--disk", "20,label=x"),
        ("--disk", "20,size_mib=5"),
        ("--disk", ",bus=scsi"),
        ("--disk", "20,bus=floppy"),
        ("--ephemeral", "0"),
        ("--ephemeral", "1.5"),
        ("--ephemeral", "1,label=x"),
        ("--ephemeral", "1,fs"),
        ("--ephemeral", "1,fs=ext4,label=../../x"),
        ("--ephemeral", "1,fs=ext4,kept=a/b"),
        ("--ephemeral", "1,role=root"),
        ("--swap", "0"),
        ("--swap", "512,fs=ext4"),
        ("--swap", "512,bus=scsi,bus=ide"),
        ("--numa", ""),
        ("--numa", "cell=0,vcpus=0"),
        ("--numa", "cell=0,vcpus,memory=1GiB"),
        ("--numa", "cell=x,vcpus=0,memory=1GiB"),
        ("--numa", "cell=0,vcpus=1-0,memory=1GiB"),
        ("--numa", "cell=0,vcpus=0-99999999,memory=1GiB"),
        ("--numa", "cell=0,vcpus=0-99999,memory=1GiB"),
        ("--numa", "cell=0,vcpus=0+0,memory=1GiB,cpus=1+2"),
        ("--numa", "cell=0,vcpus=0-1,memory=1GiB,cpus=1"),
        ("--numa", "cell=0,vcpus=0,memory=1GiB,cpus"),
        ("--numa", "cell=0,vcpus=0,memory=1GiB,size=1"),
    ],
)
def test_refused_before_the_host_is_asked(
    run: Runner, url: str, host: FakeHost, option: str, text: str
) -> None:
    done = run("spawn", url, *SPAWN, option, text)
    assert done.code == 2
    assert done.error["message"].startswith(option), done.err
    assert host.machines == {}


def test_a_field_of_hardware_is_given_once() -> None:
    with pytest.raises(BadUsageError, match=r"--hardware: 'disk_bus' is given twice"):
        machine.hardware(["disk-bus=sata", "disk_bus=scsi"])


@given(st.sampled_from(["", *Hardware.model_fields]), st.text(max_size=9))
def test_any_wish_is_an_answer_or_bad_usage(field: str, text: str) -> None:
    for wish in (text, f"{field}={text}", f"{field}{text}"):
        try:
            machine.hardware([wish])
        except BadUsageError as error:
            assert str(error).startswith("--hardware")  # noqa: PT017 - some texts are right


@given(
    st.sampled_from(["0", "0-3", "2-2", "7"]), st.text(alphabet="0123456789-+,=kept", max_size=9)
)
def test_any_text_is_an_answer_or_bad_usage(cpus: str, text: str) -> None:
    for call in (
        lambda: machine.numa([f"cell=0,vcpus={cpus}{text},memory=1GiB"]),
        lambda: machine.disks(f"1{text}", [f"1{text}"], f"1{text}"),
    ):
        try:
            call()
        except BadUsageError as error:
            assert str(error).startswith("--")  # noqa: PT017 - most texts are right
