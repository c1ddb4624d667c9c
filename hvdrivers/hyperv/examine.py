"""What a Windows administrator should see first of a host: the lines of ``hvdrivers doctor``.

One request reads facts; what they mean is decided here. The limits are those of Microsoft's
documentation, and of what the driver needs: one shell, one process, about 150 MB for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from hvdrivers.contract.connection import Connection
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.config import Authentication, HypervConfig
from hvdrivers.models.host import HostCheck

_ADMINISTRATORS: Final = "S-1-5-32-544"
_HYPERV_ADMINISTRATORS: Final = "S-1-5-32-578"
_OLDEST_BUILD: Final = 14393
"""Windows Server 2016."""
_LEAST_MEMORY: Final = 512
"""MB of a shell, for PowerShell with several runspaces and the Hyper-V module."""
_LEAST_SHELLS: Final = 5
_LEAST_PROCESSES: Final = 5
_LONGEST_ROOT: Final = 120
"""Characters: what the driver and Hyper-V put below it must stay below 260."""
_DRIFT: Final = 30.0
_KERBEROS_DRIFT: Final = 300.0
"""Seconds. Kerberos refuses tickets of clocks that differ by more than 5 minutes."""
_EPOCH: Final = 621_355_968_000_000_000
"""Ticks of .NET at the beginning of 1970."""
_TICKS: Final = 10_000_000


class HypervExamine(Topic, Connection):
    """Checks of a host that is being set up."""

    def host_checks(self, *, timeout: float | None = None) -> Sequence[HostCheck]:
        """Budget: 1 call."""
        before = time.time()
        facts = self.session.call("Examine", {}, Deadline(timeout))
        return judge(facts, self.config, now=(before + time.time()) / 2)


def judge(facts: Mapping[str, Any], config: HypervConfig, *, now: float) -> list[HostCheck]:
    """What the facts mean, in an order in which the first explain others.

    Args:
        now: the time of this machine, in seconds since 1970.
    """
    checks: tuple[Callable[[Mapping[str, Any], HypervConfig], Iterator[HostCheck]], ...] = (
        _rights,
        _module,
        _switches,
        _paths,
        _abandoned,
        _quotas,
    )
    found = [each for check in checks for each in check(facts, config)]
    return [*found, _time(facts, now), *_double_hop(facts, config)]


def _rights(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    del config
    groups = facts["groups"]
    hint = (
        f"Add-LocalGroupMember -SID {_HYPERV_ADMINISTRATORS} -Member 'USER', and a new logon. A"
        " local administrator needs LocalAccountTokenFilterPolicy = 1"
    )
    if groups is None:
        yield _line("rights", "skip", "the host does not tell the user's groups")
    elif _ADMINISTRATORS in groups:
        yield _line("rights", "ok", "an administrator of the host")
    elif _HYPERV_ADMINISTRATORS in groups:
        yield _line("rights", "ok", "in 'Hyper-V Administrators'; iSCSI needs an administrator")
    else:
        yield _line(
            "rights",
            "fail",
            "neither in 'Hyper-V Administrators' nor an administrator: machines are hidden",
            hint,
        )
    if not facts["writable"]:
        yield _line(
            "folder",
            "fail",
            f"the user may not write below {facts['root']}",
            "icacls 'FOLDER' /grant 'USER:(OI)(CI)M', or name another folder=",
        )


def _module(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    del config
    version = facts["module"]
    detail = f"Hyper-V {version}, PowerShell {facts['engine']}"
    yield _line("module", "ok" if version else "skip", detail)
    if facts["hypervisor"] is False:
        yield _line(
            "hypervisor",
            "fail",
            "the role is installed, and the hypervisor does not run",
            "virtualisation in the firmware; bcdedit /set hypervisorlaunchtype auto; restart",
        )
    build = facts["build"]
    if build is not None and build < _OLDEST_BUILD:
        yield _line(
            "windows",
            "warn",
            f"build {build} is older than Windows Server 2016",
            "checkpoints, memory and NICs of running machines need Windows Server 2016",
        )


def _switches(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    del config
    switches = facts["switches"]
    name = "virtual switches"
    if not switches:
        hint = "New-VMSwitch -Name NAME -NetAdapterName ADAPTER; the driver makes none"
        yield _line(name, "warn", "none: a machine can have no NIC", hint)
        return
    listed = ", ".join(f"{each[0]} ({each[1].lower()})" for each in switches)
    if all(each[1] != "External" for each in switches):
        hint = "New-VMSwitch -NetAdapterName, if guests are to leave the host"
        yield _line(name, "warn", f"{listed}: none leads out of the host", hint)
    else:
        yield _line(name, "ok", listed)


def _paths(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    root = facts["root"]
    if len(root) > _LONGEST_ROOT:
        hint = "Windows takes paths of 260 characters: give a shorter folder="
        yield _line("paths", "warn", f"the driver's folder is {len(root)} characters long", hint)
    elif config.folder is None:
        hint = "give folder= on the drive for machines, and the same one on hosts that migrate"
        yield _line("paths", "warn", f"{root}: the host's own default", hint)
    else:
        yield _line("paths", "ok", root)
    for name, path, there in facts["pools"]:
        if not there:
            hint = "look at the path; the driver makes the folder with the first volume"
            yield _line(f"pool {name}", "warn", f"{path} is not there", hint)


def _abandoned(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    del config
    uuids = facts["abandoned"]
    if uuids:
        yield _line(
            "spawns",
            "warn",
            f"{len(uuids)} whose clients died in the middle keep memory and disks: {uuids[0]}",
            "destroy() of the UUID removes what is left, and so does evict_image() of any image",
        )


def _quotas(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    del config
    quotas = facts["quotas"]
    name = "WinRM quotas"
    if quotas is None:
        yield _line(name, "skip", "only an administrator may read them")
        return
    least = {
        "MaxMemoryPerShellMB": _LEAST_MEMORY,
        "MaxShellsPerUser": _LEAST_SHELLS,
        "MaxProcessesPerShell": _LEAST_PROCESSES,
    }
    # 0 is no limit
    low = [each for each in least if 0 < quotas[each] < least[each]]
    if not low:
        yield _line(name, "ok", ", ".join(f"{each} {quotas[each]}" for each in least))
    for each in low:
        yield _line(
            name,
            "warn",
            f"{each} is {quotas[each]}: shells of several clients end early",
            f"Set-Item WSMan:\\localhost\\Shell\\{each} {least[each]}; Restart-Service WinRM",
        )


def _time(facts: Mapping[str, Any], now: float) -> HostCheck:
    there = (facts["ticks"] - _EPOCH) / _TICKS
    drift = abs(there - now)
    detail = f"the host's clock is {drift:.0f} s {'before' if there > now else 'behind'} this one"
    if drift <= _DRIFT:
        return _line("time", "ok", "the host's clock and this one agree")
    status = "fail" if drift > _KERBEROS_DRIFT else "warn"
    return _line("time", status, detail, "w32tm /resync; Kerberos and TLS need the same time")


def _double_hop(facts: Mapping[str, Any], config: HypervConfig) -> Iterator[HostCheck]:
    """Whether the host can go on to other computers as this user."""
    hops = config.authentication is Authentication.CREDSSP or (
        config.authentication is Authentication.KERBEROS and config.kerberos_delegation
    )
    name = "double hop"
    paths = [facts["root"], *(path for _, path, _ in facts["pools"])]
    shares = [each for each in paths if each.startswith("\\\\")]
    if hops:
        yield _line(name, "ok", f"{config.authentication} lets the host go on to shares and hosts")
    elif shares:
        yield _line(
            name,
            "warn",
            f"{config.authentication} gives the host no credentials for {shares[0]}",
            "authentication='credssp', or constrained delegation for cifs",
        )
    else:
        yield _line(
            name,
            "ok",
            f"{config.authentication} gives the host no credentials to go on with, and none of the"
            " driver's paths needs them",
        )
    if not facts["migration"]:
        hint = "Enable-VMMigration, if machines are to move to other hosts"
        yield _line("migration", "skip", "the host takes and sends no machines", hint)
    elif not hops and facts["authentication"] != "Kerberos":
        yield _line(
            "migration",
            "warn",
            f"CredSSP is chosen, and {config.authentication} cannot be used so",
            "authentication='credssp', or Set-VMHost -VirtualMachineMigrationAuthenticationType"
            " Kerberos with constrained delegation",
        )
    else:
        yield _line("migration", "ok", f"enabled, by {facts['authentication']}")


def _line(name: str, status: Any, detail: str, hint: str | None = None) -> HostCheck:
    return HostCheck(name=name, status=status, detail=detail, hint=hint)
