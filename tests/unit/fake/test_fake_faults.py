"""Every call of every operation of several calls is cut, before and after it took effect."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest
from fakery import (
    CIRROS,
    DEBIAN,
    bridge_nic,
    build,
    chap,
    nic,
    rbd,
    spec,
)

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.fake import (
    FakeConfig,
    FakeDriver,
    FakeHost,
    FakeWorld,
    FaultKind,
    FaultRule,
    ManualClock,
)
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, Flavor
from hvdrivers.models.migration import Destination
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HostdevVif

UID = UUID("00000000-0000-4000-8000-000000000001")
S, R = InstanceState.STOPPED, InstanceState.RUNNING
FULL = spec(
    uuid=UID,
    image=CIRROS,
    flavor=Flavor(vcpus=1, memory_mib=512, disk_gib=1, ephemeral_gib=1, swap_mib=64),
    volumes=(chap("vol-chap"), rbd("vol-1")),
    vifs=(nic("nic-1"), HostdevVif(id="nic-vf", pci_address=PciAddress("0000:03:10.0"))),
    cloud_init=CloudInit(user_data=b"#!/bin/sh", admin_password="pass-word-1"),
    firmware=Firmware.UEFI,
    vtpm=True,
)


class Setting:
    """A fresh host, with an instance in the state that the scenario wants."""

    def __init__(self, scenario, tmp_path):
        self.world = FakeWorld()
        self.host = FakeHost("alpha", world=self.world, clock=ManualClock())
        self.other = FakeHost("beta", world=self.world, clock=ManualClock())
        self.driver = FakeDriver(self.host, FakeConfig())
        self.tmp_path = tmp_path
        self.scenario = scenario
        if scenario.state is not None:
            build(
                self.host,
                self.driver,
                scenario.state,
                uuid=UID,
                volumes=(rbd("vol-0"),),
                vifs=(nic("nic-0"),),
                image=CIRROS,
            )

    def run(self):
        return self.scenario.run(self.driver, self.tmp_path)

    def inventory(self):
        return (
            self.host.inventory().without_cache(),
            self.other.inventory().without_cache(),
        )


@dataclass(frozen=True)
class Scenario:
    operation: str
    state: InstanceState | None
    arguments: object
    again: tuple[type[errors.HypervisorError], ...] = ()
    """What a repetition may raise after it had worked."""
    variant: str = ""

    def run(self, driver, tmp_path):
        arguments = self.arguments
        if callable(arguments):
            arguments = arguments(tmp_path)
        return getattr(driver, self.operation)(*arguments)

    def __str__(self):
        return f"{self.operation}{self.variant}"


def file_image(tmp_path):
    path = tmp_path / "disk.raw"
    if not path.exists():
        path.write_bytes(b"\0" * 1048576)
    return FileImage(path=path, format=ImageFormat.RAW)


BETA = Destination(host="beta")
EXISTS = (errors.InstanceExists,)
STATE = (errors.InvalidState,)
GONE = (errors.InstanceNotFound,)
SCENARIOS = [
    Scenario("spawn", None, (FULL,), EXISTS),
    Scenario("spawn", None, lambda tmp: (spec(uuid=UID, image=file_image(tmp)),), EXISTS, "-file"),
    Scenario("destroy", R, (UID,)),
    Scenario("rename", R, (UID, "other")),
    Scenario("power_on", S, (UID,)),
    Scenario("power_off", R, (UID,)),
    Scenario("suspend", R, (UID,)),
    Scenario("resume", InstanceState.SUSPENDED, (UID,)),
    Scenario("rescue", R, (UID, DEBIAN), STATE),
    Scenario("unrescue", InstanceState.RESCUED, (UID,)),
    Scenario("rebuild", R, (UID, DEBIAN)),
    Scenario("attach_volume", R, (UID, chap())),
    Scenario("detach_volume", R, (UID, "vol-0")),
    Scenario("swap_volume", R, (UID, "vol-0", chap()), (errors.VolumeNotFound,)),
    Scenario("migrate_storage", R, (UID, "fast")),
    Scenario("plug_vif", R, (UID, bridge_nic())),
    Scenario("unplug_vif", R, (UID, "nic-0")),
    Scenario("create_snapshot", R, (UID, "snap"), (errors.InvalidRequest,)),
    Scenario("live_migrate", R, (UID, BETA), GONE),
    Scenario("cold_migrate", S, (UID, BETA), GONE),
    Scenario("cache_image", None, lambda tmp: (file_image(tmp),)),
]
KINDS = [
    FaultKind.BEFORE,
    FaultKind.AFTER,
    FaultKind.MID,
    FaultKind.TIMEOUT,
    FaultKind.AUTH_EXPIRED,
]


def comparable(inventories):
    """Without how often the guest has booted: a repeated start is a start more."""
    return [
        {
            str(item)
            .replace("'boots': 2", "'boots': N")
            .replace("'boots': 1", "'boots': N")
            .replace("'boots': 3", "'boots': N")
            for item in each.items
        }
        for each in inventories
    ]


def steps_of(scenario, tmp_path):
    setting = Setting(scenario, tmp_path)
    before = len(setting.host.transcript())
    setting.run()
    return len(setting.host.transcript()) - before, setting.inventory()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_cut_at_every_call_leaves_nothing_and_a_retry_converges(scenario, kind, tmp_path):
    count, done = steps_of(scenario, tmp_path)
    assert count >= 1
    for step in range(1, count + 1):
        setting = Setting(scenario, tmp_path)
        before = setting.inventory()
        rule = FaultRule(operation=scenario.operation, step=step, when=kind)
        with setting.host.faults.add(rule) as fault:
            with pytest.raises(errors.HypervisorError) as caught:
                setting.run()
            assert fault.hits == 1
        where = f"{scenario} {kind} {step}/{count}: {caught.value!r}"

        error = caught.value
        assert isinstance(
            error, errors.ConnectionFailed | errors.OperationTimeout | errors.OutcomeUnknown
        ), where
        if not isinstance(error, errors.OutcomeUnknown):
            assert setting.inventory() == before, where  # such an error promises it
        try:
            setting.run()
        except scenario.again:
            assert isinstance(error, errors.OutcomeUnknown), where
        assert comparable(setting.inventory()) == comparable(done), where


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_reply_of_a_whole_operation_is_lost(scenario, tmp_path):
    _, done = steps_of(scenario, tmp_path)
    setting = Setting(scenario, tmp_path)
    with (
        setting.host.faults.add(FaultRule(operation=scenario.operation, when="after")) as fault,
        pytest.raises(errors.OutcomeUnknown),
    ):
        setting.run()
    assert fault.hits == 1
    assert comparable(setting.inventory()) == comparable(done)
    if scenario.again:
        with pytest.raises(scenario.again):
            setting.run()
    else:
        setting.run()
    assert comparable(setting.inventory()) == comparable(done)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_caller_who_dies_at_any_call_leaves_what_destroy_removes(scenario, tmp_path):
    count, done = steps_of(scenario, tmp_path)
    for step in range(1, count + 1):
        setting = Setting(scenario, tmp_path)
        rule = FaultRule(operation=scenario.operation, step=step, when="crash")
        with setting.host.faults.add(rule), pytest.raises(errors.ConnectionFailed):
            setting.run()
        if scenario.operation not in {"spawn", "rescue", "unrescue"}:
            # another process takes up where that one fell
            setting.run()
            assert comparable(setting.inventory()) == comparable(done), step
        for host in (setting.host, setting.other):
            FakeDriver(host).destroy(UID)
            assert host.inventory().of(UID) == frozenset(), (step, host)


@pytest.mark.parametrize("when", ["before", "after", "timeout"])
@pytest.mark.parametrize("operation", ["spawn", "attach_volume", "rescue"])
def test_what_could_not_be_undone_is_told_and_can_be_removed(operation, when, tmp_path):
    scenario = next(each for each in SCENARIOS if each.operation == operation)
    count, _ = steps_of(scenario, tmp_path)
    setting = Setting(scenario, tmp_path)
    undo = FaultRule(operation="*", undo=True, nth=None)
    last = FaultRule(operation=operation, step=count, when=when)
    cut = setting.host.faults.add(last)
    # only what undoes: everything after the fault
    calls = len(setting.host.transcript())
    try:
        with pytest.raises(errors.OutcomeUnknown):
            _with_host_lost_at(setting, undo, cut)
    finally:
        setting.host.faults.clear()
        setting.host.answer_again()
    assert len(setting.host.transcript()) >= calls
    setting.driver.destroy(UID)
    assert setting.host.inventory().of(UID) == frozenset()


def _with_host_lost_at(setting, undo, cut):
    """Run, and let the host be unreachable from the moment of the fault on."""
    original = cut.strikes

    def strikes(occasion):
        struck = original(occasion)
        if struck:
            setting.host.faults.add(undo)
        return struck

    cut.strikes = strikes
    setting.run()


def test_a_host_that_goes_away_while_something_is_begun(host, driver, clock):
    """The request waits at the host when the cable is cut."""
    host.latency["create-root-disk"] = lambda: host.stop_answering() or 1.0
    wanted = spec()
    with pytest.raises(errors.OutcomeUnknown, match="could be undone"):
        driver.spawn(wanted)
    host.latency.clear()
    with pytest.raises(errors.ConnectionFailed):
        driver.ping()
    host.answer_again()
    driver.destroy(wanted.uuid)
    assert host.inventory().of(wanted.uuid) == frozenset()


def test_a_cut_during_a_wait_is_no_effect(host, driver):
    uuid = build(host, driver, R)
    before = host.inventory()
    host.latency["pause"] = lambda: host.disconnect() or 1.0
    with pytest.raises(errors.ConnectionFailed):
        driver.pause(uuid)
    assert host.inventory() == before
    host.latency.clear()
    driver.pause(uuid)


@pytest.mark.parametrize("kind", list(FaultKind), ids=str)
def test_a_read_that_fails_has_changed_nothing_and_says_so(host, driver, kind):
    uuid = build(host, driver, R)
    rule = FaultRule(operation="get_instance", when=kind, step=1, delay=1.0)
    with host.faults.add(rule) as fault:
        if kind is FaultKind.DELAY:
            driver.get_instance(uuid)
        else:
            with pytest.raises((errors.ConnectionFailed, errors.OperationTimeout)):
                driver.get_instance(uuid)
    assert fault.hits == 1


def test_the_error_of_a_rule_is_the_one_that_it_makes(host, driver):
    def refuse():
        return errors.PermissionDenied("not for you", vendor_code="FAKE_ROLE")

    with (
        host.faults.add(FaultRule(operation="spawn", error=refuse)),
        pytest.raises(errors.PermissionDenied) as caught,
    ):
        driver.spawn(spec())
    assert caught.value.operation == "spawn"
    assert caught.value.vendor_code == "FAKE_ROLE"
    assert host.inventory().without_cache().items == frozenset()


def test_soft_reboot_is_cut_too(host, driver):
    uuid = build(host, driver, R)
    for step in (1, 2):
        with host.faults.add(FaultRule(operation="reboot", step=step, when="before")):
            boots = host.console(uuid).count(b"Booting")
            with pytest.raises(errors.ConnectionFailed):
                driver.reboot(uuid, RebootKind.SOFT)
            assert host.console(uuid).count(b"Booting") == boots


BUDGETS = {
    # check, define, start; image and root disk 2; ephemeral, swap, seed; volumes 2+1+1; NICs 2
    "spawn": 3 + 2 + 3 + 4 + 2,
    "spawn-file": 3 + 5,
    "destroy": 6,
    "rename": 1,
    "power_on": 1,
    "power_off": 1,
    "suspend": 2,
    "resume": 1,
    "rescue": 4,
    "unrescue": 1,
    "rebuild": 4,
    "attach_volume": 4,
    "detach_volume": 4,
    "swap_volume": 5,
    "migrate_storage": 3,
    "plug_vif": 3,
    "unplug_vif": 4,
    "create_snapshot": 1,
    "live_migrate": 4,
    "cold_migrate": 3,
    "cache_image": 4,
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_calls_of_an_operation_are_as_many_as_it_says(scenario, tmp_path):
    assert steps_of(scenario, tmp_path)[0] == BUDGETS[str(scenario)]
