"""A host as a whole: ``capabilities``, ``resources``, ``metrics``, ``maintenance``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.command import HostArgument
from hvdrivers.cli.complete import complete_instance
from hvdrivers.cli.output import details, size, table
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from hvdrivers.models.resources import HostResources, PlacementProvider


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
                "reason": driver.why_not(each),
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
            "guests": "accelerated" if found.host.accelerated else "emulated",
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


class Mode(StrEnum):
    """What to do about maintenance."""

    STATUS = "status"
    ON = "on"
    OFF = "off"


def set_maintenance(
    session: Session,
    host: HostArgument,
    mode: Annotated[
        Mode, typer.Argument(metavar="[status|on|off]", help="What to do; status only asks.")
    ] = Mode.STATUS,
) -> None:
    """Take a host out of service, or back.

    A host in maintenance starts no instance. It must have none that is powered on: move them first.
    """
    with session.host(host) as driver:
        if mode is Mode.ON:
            driver.enter_maintenance(timeout=session.timeout)
        elif mode is Mode.OFF:
            driver.exit_maintenance(timeout=session.timeout)
        state = driver.in_maintenance(timeout=session.timeout)
    session.emit({"maintenance": state}, lambda: details({"maintenance": state}))


capabilities = cmd.command(show_capabilities)
resources = cmd.command(show_resources)
metrics = cmd.command(show_metrics)
maintenance = cmd.command(set_maintenance)
