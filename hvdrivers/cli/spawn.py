"""``spawn``: make an instance."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4, uuid5

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli import machine, parse
from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import HostArgument
from hvdrivers.cli.instances import info_view
from hvdrivers.cli.interrupt import Interrupted, Interruptible
from hvdrivers.cli.progress import progress
from hvdrivers.cli.report import BadUsageError, say, secrets_of_url
from hvdrivers.cli.session import Session, uuid_of
from hvdrivers.contract.errors import HypervisorError, InstanceNotFound, OutcomeUnknown

if TYPE_CHECKING:
    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.instance import InstanceInfo, InstanceSpec


def spawn_instance(
    session: Session,
    host: HostArgument,
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="A label for people.")],
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="What the root disk is made from: PATH, https://..., host:NAME or cached:KEY.",
        ),
    ] = None,
    image_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="The image's format, if its name does not end in it."
        ),
    ] = None,
    checksum: Annotated[
        str | None,
        typer.Option(metavar="sha256:HEX", help="What the image must hash to; a URL needs it."),
    ] = None,
    vcpus: Annotated[int, typer.Option(metavar="N", min=1, help="Virtual CPUs.")] = 1,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory: MiB, or with a unit, 2GiB.")
    ] = "1024",
    max_vcpus: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="How far CPUs can be added while the instance runs. Default: not at all.",
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How far memory can be added while the instance runs: MiB, or with a unit."
            " Default: not at all.",
        ),
    ] = None,
    cpu_policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="shared, or dedicated: each virtual CPU has a thread of the host to itself."
            " Default: shared.",
        ),
    ] = None,
    page_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Back the memory by huge pages of this size: KiB, or with a unit, 2MiB.",
        ),
    ] = None,
    disk: Annotated[
        str,
        typer.Option(
            metavar="DISK",
            help="Root disk: SIZE in GiB, or with a unit; 0: as the image; [,bus=..][,kept=ID].",
        ),
    ] = "0",
    ephemeral: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DISK",
            help="Another disk of its own: SIZE[,fs=..][,label=..][,bus=..][,kept=ID]; repeatable.",
        ),
    ] = None,
    swap: Annotated[
        str | None,
        typer.Option(
            metavar="DISK", help="A swap disk: SIZE in MiB[,label=..][,bus=..][,kept=ID]."
        ),
    ] = None,
    numa_nodes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Virtual NUMA nodes; the host places them."),
    ] = None,
    numa: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE",
            help="A NUMA node on a cell of the host: cell=0,vcpus=0-1,memory=SIZE[,cpus=4+6],"
            " the host CPUs in the order of the virtual ones; repeatable.",
        ),
    ] = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="machine_type, disk_bus, nic_model, video, watchdog, rng or tpm_model, or"
            " cpu_topology=sockets=2,cores=4; a host that does not take the field refuses it;"
            " repeatable.",
        ),
    ] = None,
    nic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NIC",
            help="network:NAME, bridge:NAME or ovs:NAME with [,mac=..], type=..,key=.., or @FILE;"
            " repeatable.",
        ),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VOLUME",
            help="A volume of the host, ID[,bus=..][,boot=0][,readonly], or @FILE; repeatable.",
        ),
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For the guest's cloud-init.")
    ] = None,
    ssh_key: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A public key for the guest's user; repeatable."),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(metavar="NAME", help="The guest's own name, by cloud-init.")
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            metavar="DISC",
            help="A seed disc of your own instead of those: FILE[,label=..][,bus=..][,type=disk],"
            " byte for byte; type is cdrom if not given.",
        ),
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Metadata of the instance; repeatable."),
    ] = None,
    uefi: Annotated[bool, typer.Option("--uefi", help="Boot by UEFI.")] = False,
    secure_boot: Annotated[
        bool, typer.Option("--secure-boot", help="Boot signed code only; implies --uefi.")
    ] = False,
    vtpm: Annotated[bool, typer.Option("--vtpm", help="A virtual TPM 2.0.")] = False,
    sev: Annotated[
        bool, typer.Option("--sev", help="Encrypt the guest's memory (AMD SEV).")
    ] = False,
    pci: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A PCI device of the host, 0000:03:10.1, for the instance alone; repeatable.",
        ),
    ] = None,
    vgpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VGPU",
            help="A slice of a GPU: TYPE[,parent=ADDRESS], the GPU to take it from; repeatable.",
        ),
    ] = None,
    server_group: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="NAME,policy=affinity or anti-affinity, or soft-affinity or soft-anti-affinity: on"
            " which of its hosts a cluster puts it.",
        ),
    ] = None,
    paused: Annotated[
        bool, typer.Option("--paused", help="Start it, and let its CPUs wait for power unpause.")
    ] = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Leave it stopped.")] = False,
    uuid: Annotated[
        str | None, typer.Option(metavar="UUID", help="Its identity, instead of a random one.")
    ] = None,
) -> None:
    """Make an instance and start it.

    It is made whole or not at all. If the command is interrupted, or the outcome unknown, the
    message has the UUID and the command that cleans up.

    \b
    Examples:
      hvdrivers spawn qemu:///system --name web1 --image debian.qcow2 \\
          --memory 2GiB --disk 20 --nic network:default \\
          --ssh-key ~/.ssh/id_ed25519.pub
      hvdrivers spawn lab1 --name db1 --image https://images.example/db.qcow2 \\
          --checksum sha256:9f86d0... --nic bridge:br0,mac=52:54:00:12:34:56
      hvdrivers spawn lab1 --name db2 --image host:debian --vcpus 2 \\
          --memory 4GiB --ephemeral 50,fs=ext4,label=data --swap 2GiB \\
          --numa cell=0,vcpus=0-1,memory=4GiB
      hvdrivers spawn lab1 --name db3 --image host:debian --vcpus 2 \\
          --max-vcpus 8 --memory 4GiB --max-memory 16GiB \\
          --hardware machine_type=q35 --hardware video=none
      hvdrivers spawn lab1 --name gpu1 --image host:debian --paused \\
          --seed disc.iso,label=cidata --vgpu nvidia-63 --pci 0000:03:10.1
    """
    if paused and no_start:
        raise BadUsageError("--paused starts it", hint="give --paused or --no-start, not both")
    if seed is not None and (user_data is not None or ssh_key or hostname is not None):
        raise BadUsageError(
            "--seed takes the place of the disc that --user-data, --ssh-key and --hostname fill",
            hint="give --seed, or those",
        )
    wanted = uuid4() if uuid is None else uuid_of(uuid)
    if wanted is None:
        raise BadUsageError(f"--uuid: {uuid!r} is not a UUID")
    sizes, disks = machine.disks(disk, ephemeral or (), swap)
    value: dict[str, Any] = {
        "uuid": wanted,
        "name": name,
        "flavor": machine.flavor(
            {
                "vcpus": vcpus,
                "max_vcpus": max_vcpus,
                "memory_mib": parse.mib("--memory", memory),
                "max_memory_mib": None
                if max_memory is None
                else parse.mib("--max-memory", max_memory),
                "page_size_kib": None if page_size is None else parse.kib("--page-size", page_size),
                "numa_nodes": numa_nodes,
                **sizes,
            },
            cpu_policy=cpu_policy,
        ),
        "hardware": machine.hardware(hardware or ()),
        "disks": disks,
        "numa": machine.numa(numa or ()),
        "vifs": [
            # an id that follows from the instance's: the same command makes the same NICs
            parse.nic(text, nic_id=str(uuid5(wanted, f"nic{index}")))
            for index, text in enumerate(nic or ())
        ],
        "metadata": parse.pairs("--meta", meta or ()),
        "cloud_init": _cloud_init(user_data, ssh_key or (), hostname),
        "firmware": "uefi" if uefi or secure_boot else None,
        "secure_boot": secure_boot,
        "vtpm": vtpm,
        "sev": sev,
        "seed": None if seed is None else machine.seed_disc(seed),
        "pci_devices": machine.pci_devices(pci or ()),
        "vgpus": machine.vgpus(vgpu or ()),
        "server_group": None if server_group is None else machine.server_group(server_group),
        "start": not no_start,
        "start_as": "paused" if paused else "running",
    }
    if image is not None:
        value["image"] = parse.image(image, image_format=image_format, checksum=checksum)
    elif image_format is not None or checksum is not None:
        raise BadUsageError("--format and --checksum describe an image: give --image")
    elif not volume and not any(each["role"] == "root" and "kept" in each for each in disks):
        raise BadUsageError(
            "nothing to boot from",
            hint="give --image, --volume ID,boot=0, or --disk 0,kept=ID",
        )
    with session.host(host) as driver:
        from hvdrivers.models.instance import InstanceSpec

        value["volumes"] = parse.volumes(driver, volume or ())
        spec = parse.checked("spawn", InstanceSpec, value, hint="hvdrivers spawn --help")
        info = _spawn(session, driver, spec, host)
    session.emit(info, lambda: info_view(info))


def _cloud_init(
    user_data: Path | None, ssh_keys: list[Path] | tuple[()], hostname: str | None
) -> dict[str, Any] | None:
    if user_data is None and not ssh_keys and hostname is None:
        return None
    keys = []
    for path in ssh_keys:
        text = parse.read_file("--ssh-key", path).decode("utf-8", errors="replace")
        if "PRIVATE KEY" in text:
            raise BadUsageError(f"--ssh-key: {path} is a private key", hint=f"give {path}.pub")
        keys += [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    return {
        "hostname": hostname,
        "ssh_keys": keys,
        "user_data": None if user_data is None else parse.read_file("--user-data", user_data),
    }


def _spawn(session: Session, driver: ComputeDriver, spec: InstanceSpec, host: str) -> InstanceInfo:
    say(f"spawning {spec.name} as {spec.uuid}")
    with progress() as report:
        operation = Interruptible(
            lambda callback: driver.spawn(spec, timeout=session.timeout, progress=callback)
        )
        try:
            return operation.run(report)
        except Interrupted as interrupted:
            error = interrupted
        except OutcomeUnknown:
            _tell_how_to_clean_up(spec.uuid, host, f"{spec.uuid} may be there.")
            raise
    _tell_what_is_left(driver, spec.uuid, host, finished=error.finished)
    raise typer.Exit(ExitCode.INTERRUPTED)


def _tell_what_is_left(driver: ComputeDriver, uuid: UUID, host: str, *, finished: bool) -> None:
    """After Ctrl-C: ask the host, if it has stopped working on the instance."""
    if finished:
        try:
            state = driver.get_instance(uuid, timeout=10).state
        except InstanceNotFound:
            say(f"{uuid} is not there: what was begun has been undone.")
            return
        except HypervisorError:
            pass  # not known, then
        else:
            _tell_how_to_clean_up(uuid, host, f"{uuid} is there, and {state}.")
            return
    _tell_how_to_clean_up(uuid, host, f"{uuid} may be there, whole or in part.")


def _tell_how_to_clean_up(uuid: UUID, host: str, what: str) -> None:
    # the host as it was given may hold a password; then it must be typed again
    named = "HOST" if secrets_of_url(host) else shlex.quote(host)
    say(what)
    say(f"look:     hvdrivers show {named} {uuid}")
    say(f"clean up: hvdrivers destroy {named} {uuid}")


spawn = cmd.command(spawn_instance)
