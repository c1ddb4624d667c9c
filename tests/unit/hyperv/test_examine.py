"""What the facts of a host mean for whoever sets it up."""

from __future__ import annotations

from typing import Any

import pytest

from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.examine import judge
from hvdrivers.models.host import HostCheck

NOW = 1_800_000_000.0


def ticks(seconds: float) -> int:
    return 621_355_968_000_000_000 + int(seconds) * 10_000_000


GOOD: dict[str, Any] = {
    "ticks": ticks(NOW),
    "engine": "5.1.20348.2110",
    "root": "D:\\hvdrivers",
    "migration": True,
    "authentication": "Kerberos",
    "switches": [["lan", "External"]],
    "pools": [["fast", "E:\\fast", True]],
    "module": "2.0.0.0",
    "build": 20348,
    "hypervisor": True,
    "groups": ["S-1-1-0", "S-1-5-32-578"],
    "quotas": {"MaxMemoryPerShellMB": 1024, "MaxShellsPerUser": 30, "MaxProcessesPerShell": 25},
    "writable": True,
    "abandoned": [],
}


def judged(config: dict[str, Any] | None = None, **changes: Any) -> dict[str, HostCheck]:
    fields = {"host": "hv1", "username": "a", "password": "b", "folder": "D:\\hvdrivers"}
    made = HypervConfig.model_validate(fields | (config or {}))
    return {each.name: each for each in judge(GOOD | changes, made, now=NOW)}


def test_a_host_that_is_fit_gives_no_warning() -> None:
    found = judged()
    assert {each.status for each in found.values()} == {"ok"}
    assert list(found) == [
        "rights",
        "module",
        "virtual switches",
        "paths",
        "WinRM quotas",
        "time",
        "double hop",
        "migration",
    ]


@pytest.mark.parametrize(
    ("name", "status", "hint", "changes"),
    [
        ("rights", "fail", "S-1-5-32-578 -Member 'USER'", {"groups": ["S-1-1-0"]}),
        ("rights", "skip", None, {"groups": None}),
        ("folder", "fail", "'USER:(OI)(CI)M'", {"writable": False}),
        ("hypervisor", "fail", "hypervisorlaunchtype", {"hypervisor": False}),
        ("windows", "warn", "2016", {"build": 9600}),
        ("virtual switches", "warn", "New-VMSwitch", {"switches": []}),
        ("virtual switches", "warn", "NetAdapterName", {"switches": [["a", "Private"]]}),
        ("paths", "warn", "shorter", {"root": "D:\\" + "a" * 130}),
        ("spawns", "warn", "destroy", {"abandoned": ["b2f0110c-985f-4b7f-a83b-7f813acfc156"]}),
        ("pool fast", "warn", "path", {"pools": [["fast", "E:\\fast", False]]}),
        ("WinRM quotas", "skip", None, {"quotas": None}),
        ("time", "warn", "w32tm", {"ticks": ticks(NOW + 60)}),
        ("time", "fail", "Kerberos", {"ticks": ticks(NOW - 900)}),
        ("double hop", "warn", "credssp", {"pools": [["s", "\\\\files\\s", True]]}),
        ("migration", "warn", "credssp", {"authentication": "CredSSP"}),
        ("migration", "skip", "Enable-VMMigration", {"migration": False}),
    ],
)
def test_what_is_wrong_has_a_hint(
    name: str, status: str, hint: str | None, changes: dict[str, Any]
) -> None:
    found = judged(**changes)[name]
    assert found.status == status
    assert (found.hint is None) if hint is None else (hint in (found.hint or ""))


def test_quotas_and_delegation_are_judged_one_by_one() -> None:
    low = {"MaxMemoryPerShellMB": 150, "MaxShellsPerUser": 0, "MaxProcessesPerShell": 25}
    found = judged(quotas=low)["WinRM quotas"]
    assert (found.status, "MaxMemoryPerShellMB is 150" in found.detail) == ("warn", True)
    share = {"pools": [["s", "\\\\files\\s", True]], "authentication": "CredSSP"}
    found = judged({"authentication": "credssp"}, **share)["double hop"]
    assert found.status == "ok"
    assert judged({"authentication": "credssp"}, **share)["migration"].status == "ok"
    assert judged({"folder": None})["paths"].status == "warn"
