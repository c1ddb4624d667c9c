"""Consoles, agents, shares, metrics, and the host itself."""

from __future__ import annotations

import pytest
from fakery import bridge_nic, build, nic, rbd, spec, state_of
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost, ManualClock
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.guest import AddressSource, ExecResult, GuestCredentials, Share
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState

R, S = InstanceState.RUNNING, InstanceState.STOPPED


def test_the_console_log_has_an_end(host, driver):
    host.default_guest.console = "login: ünïcode"
    uuid = build(host, driver, R)
    log = driver.get_console_log(uuid)
    assert not log.truncated
    assert log.text.endswith("login: ünïcode\r\n")
    short = driver.get_console_log(uuid, max_bytes=5)
    assert (short.data, short.truncated) == (log.data[-5:], True)
    driver.power_off(uuid)
    driver.power_on(uuid)
    assert driver.get_console_log(uuid).data.startswith(log.data)


def test_the_console_log_is_bounded(host, driver):
    host.default_guest.console = "x" * (1 << 19)
    uuid = build(host, driver, R)
    for _ in range(3):
        driver.reboot(uuid)
    assert len(host.console(uuid)) == 1 << 20


@pytest.mark.parametrize("kind", list(ConsoleKind), ids=str)
def test_each_console_access_is_new(host, driver, kind):
    uuid = build(host, driver, R)
    one, two = driver.get_console(uuid, kind), driver.get_console(uuid, kind)
    assert one.kind is kind
    assert one.ticket != two.ticket
    assert one.ticket.get_secret_value() not in repr(one)


def test_a_picture_shows_the_state(host, driver):
    uuid = build(host, driver, R)
    running = driver.screenshot(uuid)
    driver.pause(uuid)
    assert driver.screenshot(uuid) != running


def test_everything_that_needs_an_agent(host, driver):
    uuid = build(host, driver, R, vifs=(nic(),))
    host.guest(uuid).agent = False
    before = host.inventory()
    for call in (
        lambda: driver.set_guest_password(uuid, "root", SecretStr("pass-word")),
        lambda: driver.freeze(uuid),
        lambda: driver.thaw(uuid),
        lambda: driver.guest_exec(uuid, ["/bin/true"]),
    ):
        with pytest.raises(errors.GuestAgentUnavailable):
            call()
    assert host.inventory() == before
    sources = {each.source for each in driver.guest_addresses(uuid)}
    assert sources == {AddressSource.ARP, AddressSource.LEASE}
    host.guest(uuid).agent = True
    driver.freeze(uuid)


def test_an_agent_comes_up_with_the_guest(host, driver, clock):
    host.default_guest.boot_seconds = 30
    uuid = build(host, driver, R)
    with pytest.raises(errors.GuestAgentUnavailable):
        driver.freeze(uuid)
    clock.advance(30)
    driver.freeze(uuid)
    driver.reboot(uuid)
    with pytest.raises(errors.GuestAgentUnavailable):
        driver.freeze(uuid)


def test_passwords(host, driver):
    uuid = build(host, driver, R)
    driver.set_guest_password(uuid, "root", SecretStr("hunter22"))
    assert host.password(uuid, "root") == "hunter22"
    assert host.password(uuid, "nobody") is None
    assert "hunter22" not in repr(host.inventory())
    with pytest.raises(errors.InvalidRequest) as caught:
        driver.set_guest_password(uuid, "nobody", SecretStr("hunter22"))
    assert "hunter22" not in str(caught.value)


def test_a_guest_that_wants_credentials(host, driver):
    uuid = build(host, driver, R)
    host.guest(uuid).accounts = {"admin": "right-word"}
    right = GuestCredentials(user="admin", password=SecretStr("right-word"))
    wrong = GuestCredentials(user="admin", password=SecretStr("wrong-word"))
    for call in (
        lambda **c: driver.guest_exec(uuid, ["/bin/true"], **c),
        lambda **c: driver.set_guest_password(uuid, "root", SecretStr("new-word"), **c),
    ):
        with pytest.raises(errors.InvalidRequest):
            call()
        with pytest.raises(errors.PermissionDenied):
            call(credentials=wrong)
        call(credentials=right)


def test_programs(host, driver):
    uuid = build(host, driver, R)
    assert driver.guest_exec(uuid, ["/bin/echo", "a  b", "$c"]).stdout == b"a  b $c\n"
    assert driver.guest_exec(uuid, ["/bin/cat"], stdin=b"\0\xff").stdout == b"\0\xff"
    assert driver.guest_exec(uuid, ["/bin/false"]).exit_code == 1
    host.guest(uuid).programs["/bin/mine"] = lambda command, stdin: ExecResult(
        exit_code=len(command), stdout=b"", stderr=b"oops"
    )
    assert driver.guest_exec(uuid, ["/bin/mine"]).stderr == b"oops"
    for command in (["/bin/none"], []):
        with pytest.raises(errors.InvalidRequest):
            driver.guest_exec(uuid, command)
    host.guest(uuid).exec_seconds = 60
    with pytest.raises(errors.OutcomeUnknown):
        driver.guest_exec(uuid, ["/bin/true"], timeout=5)


def test_frozen_file_systems_take_no_writes(host, driver):
    uuid = build(host, driver, R)
    driver.freeze(uuid)
    driver.freeze(uuid)
    with pytest.raises(errors.InvalidRequest):
        host.write_disk(uuid, "x")
    driver.thaw(uuid)
    driver.thaw(uuid)
    host.write_disk(uuid, "x")
    driver.freeze(uuid)
    driver.reboot(uuid)
    host.write_disk(uuid, "y")


def test_addresses_name_their_source(host, driver):
    uuid = build(host, driver, R, vifs=(nic(address="52:54:00:01:02:03"), bridge_nic("b")))
    found = driver.guest_addresses(uuid)
    assert [(each.source, each.interface) for each in found] == [
        (AddressSource.ARP, None),
        (AddressSource.LEASE, None),
        (AddressSource.AGENT, "eth0"),
        (AddressSource.ARP, None),
        (AddressSource.AGENT, "eth1"),
    ]
    assert str(found[0].address) == "10.1.2.3"
    assert (found[0].prefix_length, found[2].prefix_length) == (None, 8)


def test_shares(host, driver):
    uuid = build(host, driver, S)
    before = host.inventory()
    share = Share(tag="data", path="/srv/share")
    driver.attach_share(uuid, share)
    driver.attach_share(uuid, share)
    with pytest.raises(errors.InvalidRequest):
        driver.attach_share(uuid, share.model_copy(update={"read_only": True}))
    with pytest.raises(errors.VolumeNotFound):
        driver.attach_share(uuid, Share(tag="x", path="/none"))
    driver.detach_share(uuid, "data")
    driver.detach_share(uuid, "data")
    assert host.inventory() == before


def test_metrics_grow_with_the_clock(host, driver, clock):
    flavor = Flavor(vcpus=2, memory_mib=512, disk_gib=1, ephemeral_gib=1, swap_mib=64)
    uuid = build(
        host,
        driver,
        R,
        flavor=flavor,
        vifs=(nic(),),
        volumes=(rbd(),),
        cloud_init=CloudInit(user_data=b"x"),
    )
    stopped = build(host, driver, S)
    clock.advance(10)
    before = host.round_trips
    metrics = {each.uuid: each for each in driver.get_metrics()}
    assert host.round_trips == before + 1
    assert set(metrics) == {uuid, stopped}
    mine = metrics[uuid]
    assert mine.cpu_time_ns == 10 * 10**9
    assert (mine.memory_mib, mine.memory_rss_mib) == (512, 512)
    assert {disk.device for disk in mine.disks} == {"vda", "vdb", "sr0", "ephemeral", "swap"}
    assert mine.vifs[0].rx_packets == 10
    assert metrics[stopped].cpu_time_ns is None
    host.write_disk(uuid, "x")
    after = driver.get_metrics(frozenset({uuid}))[0]
    assert after.disks[0].write_requests == mine.disks[0].write_requests + 1
    assert driver.get_metrics(frozenset({build(host, driver, S), stopped}))
    driver.reboot(uuid)
    assert driver.get_metrics(frozenset({uuid}))[0].cpu_time_ns == 0


def test_maintenance(host, driver):
    build(host, driver, R)
    with pytest.raises(errors.InvalidState):
        driver.enter_maintenance()
    driver.power_off(driver.list_instances()[0].uuid)
    driver.enter_maintenance()
    driver.enter_maintenance()
    assert driver.in_maintenance()
    before = host.inventory()
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec())
    with pytest.raises(errors.InsufficientResources):
        driver.power_on(driver.list_instances()[0].uuid)
    assert host.inventory().without_cache() == before.without_cache()
    driver.exit_maintenance()
    driver.power_on(driver.list_instances()[0].uuid)


def test_foreign_machines_hold_up_maintenance(host, driver):
    host.add_foreign()
    with pytest.raises(errors.InvalidState):
        driver.enter_maintenance()


def test_host_power(host, driver):
    uuid = build(host, driver, R)
    foreign = host.add_foreign()
    with pytest.raises(errors.InvalidState):
        driver.host_power(HostPowerAction.REBOOT)
    driver.power_off(uuid)
    driver.host_power(HostPowerAction.REBOOT)
    assert driver.list_foreign()[0].state is S
    driver.host_power(HostPowerAction.SHUTDOWN)
    with pytest.raises(errors.ConnectionFailed):
        driver.ping()
    host.answer_again()
    driver.ping()
    assert state_of(driver, uuid) is S
    assert foreign


def test_host_info(driver):
    info = driver.host()
    assert (info.driver, info.hostname, info.architecture) == ("fake", "alpha", "x86_64")


def test_knobs_refuse_nonsense(host, driver):
    uuid = build(host, driver, S)
    with pytest.raises(errors.InvalidRequest):
        host.crash(uuid)
    with pytest.raises(errors.InvalidRequest):
        host.remove_foreign(uuid)
    with pytest.raises(errors.InvalidRequest):
        host.add_foreign(uuid)
    with pytest.raises(errors.InstanceNotFound):
        FakeHost(clock=ManualClock()).guest(uuid)
    host.shut_down_guest(uuid)
    assert state_of(driver, uuid) is S
