"""A host as a whole: ``capabilities``, ``resources``, ``metrics``, ``maintenance``,
``host-power``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.ask import confirm
from hvdrivers.cli.command import Group, HostArgument, YesOption
from hvdrivers.cli.complete import complete_instance
from hvdrivers.cli.output import details, size, table
from hvdrivers.cli.parse import checked
from hvdrivers.cli.session import Session
from hvdrivers.cli.wording import in_commands

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.resources import HostResources, PlacementProvider


_GUESTS = {True: "accelerated", False: "emulated", None: "not run on a processor"}


def show_capabilities(session: Session, host: HostArgument) -> None:
    """Show what a host can do, and why not the rest.

    The operations that every driver has are not listed.
    """
    from hvdrivers.contract.capabilities import Capability

    with session.host(host) as driver:
        rows = [
            {
                "capability": str(each),
                "available": each in driver.capabilities,
                "reason": in_commands(driver.why_not(each)),
            }
            for each in Capability
        ]
    session.emit(
        rows,
        lambda: table(("CAPABILITY", "AVAILABLE", "WHY NOT"), ([*row.values()] for row in rows)),
    )


def show_resources(
    session: Session,
    host: HostArgument,
    placement: Annotated[
        bool, typer.Option("--placement", help="As OpenStack Placement's resource providers.")
    ] = False,
) -> None:
    """Show what a host has and what is taken."""
    with session.host(host) as driver:
        if placement:
            providers = driver.placement_inventories(timeout=session.timeout)
            session.emit(providers, lambda: _providers_view(providers))
        else:
            resources = driver.get_available_resource(timeout=session.timeout)
            session.emit(resources, lambda: _resources_view(resources))


def _resources_view(found: HostResources) -> Table:
    cpu, memory = found.cpu, found.memory
    return details(
        {
            "host": f"{found.host.hostname} ({found.host.product} {found.host.product_version},"
            f" {found.host.architecture})",
            "guests": _GUESTS[found.host.accelerated],
            "instances": found.instances,
            "CPU": f"{cpu.total} threads, {cpu.used} in use, {cpu.dedicated} dedicated"
            f" ({cpu.sockets} sockets, {cpu.cores_per_socket} cores,"
            f" {cpu.threads_per_core} threads; {cpu.model})",
            "memory": f"{memory.total_mib} MiB, {memory.used_mib} in use"
            + ("" if memory.free_mib is None else f", {memory.free_mib} free"),
            "huge pages": [
                f"{page.size_kib} KiB: {page.free} of {page.total} free"
                for page in memory.hugepages
            ],
            "storage": [
                f"{pool.name}: {pool.used_gib:.1f} of {pool.total_gib:.1f} GiB in use"
                + (", shared" if pool.shared else "")
                for pool in found.storage
            ],
            "NUMA cells": [
                f"{cell.id}: {len(cell.cpus)} threads, {cell.memory_mib} MiB"
                for cell in found.numa_cells
            ],
            "PCI devices": [
                f"{device.address} {device.vendor_id}:{device.product_id} {device.label}".rstrip()
                for device in found.devices
            ],
            "vGPUs": [
                f"{kind.name} of {device.address}: {kind.available} left"
                for device in found.devices
                for kind in device.mediated_types
            ],
        }
    )


def _providers_view(providers: Iterable[PlacementProvider]) -> Table:
    return table(
        ("PROVIDER", "PARENT", "RESOURCE CLASS", "TOTAL", "RESERVED", "RATIO", "TRAITS"),
        (
            (
                provider.name,
                provider.parent,
                resource,
                inventory.total,
                inventory.reserved,
                inventory.allocation_ratio,
                len(provider.traits),
            )
            for provider in providers
            for resource, inventory in sorted(provider.inventories.items())
        ),
    )


def show_metrics(
    session: Session,
    host: HostArgument,
    instances: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INSTANCE]...",
            help="Only these; all if none is named.",
            autocompletion=complete_instance,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the counters of instances. They grow from each start of a machine."""
    with session.host(host) as driver:
        wanted = frozenset(session.find(driver, text) for text in instances) if instances else None
        found = driver.get_metrics(wanted, timeout=session.timeout)
    session.emit(
        found,
        lambda: table(
            ("UUID", "STATE", "VCPUS", "CPU TIME", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT"),
            (
                (
                    each.uuid,
                    each.state,
                    each.vcpus,
                    None if each.cpu_time_ns is None else f"{each.cpu_time_ns / 1e9:.1f} s",
                    f"{each.memory_mib} MiB",
                    _total(disk.read_bytes for disk in each.disks),
                    _total(disk.write_bytes for disk in each.disks),
                    _total(vif.rx_bytes for vif in each.vifs),
                    _total(vif.tx_bytes for vif in each.vifs),
                )
                for each in found
            ),
        ),
    )


def _total(counters: Iterable[int | None]) -> str | None:
    known = [count for count in counters if count is not None]
    return size(sum(known)) if known else None


_maintenance = Group("Take a host out of service, or back.")
maintenance = _maintenance.app


def _tell_maintenance(session: Session, driver: ComputeDriver) -> None:
    state = driver.in_maintenance(timeout=session.timeout)
    session.emit({"maintenance": state}, lambda: details({"maintenance": state}))


@_maintenance.command("status")
def maintenance_status(session: Session) -> None:
    """Show whether a host is in maintenance."""
    with session.host() as driver:
        _tell_maintenance(session, driver)


@_maintenance.command("on")
def maintenance_on(session: Session) -> None:
    """Let a host start no instance any more.

    It must have none that is powered on: move them first.
    """
    with session.host() as driver:
        driver.enter_maintenance(timeout=session.timeout)
        _tell_maintenance(session, driver)


@_maintenance.command("off")
def maintenance_off(session: Session) -> None:
    """Put a host back into service."""
    with session.host() as driver:
        driver.exit_maintenance(timeout=session.timeout)
        _tell_maintenance(session, driver)


def power_of_host(
    session: Session,
    host: HostArgument,
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="reboot or shutdown.", show_default=False)
    ],
    *,
    yes: YesOption = False,
) -> None:
    """Reboot or shut down the host itself. No instance may be powered on."""
    from hvdrivers.models.host import HostPowerAction

    wanted = checked("ACTION", HostPowerAction, action)  # type: ignore[arg-type]
    confirm(f"the host itself: {wanted}", yes=yes)
    with session.host(host) as driver:
        driver.host_power(wanted, timeout=session.timeout)
        result = {"host": driver.host_label, "outcome": f"{wanted} accepted"}
    session.emit(result, lambda: details(result))


host_power = cmd.command(power_of_host)
capabilities = cmd.command(show_capabilities)
resources = cmd.command(show_resources)
metrics = cmd.command(show_metrics)
