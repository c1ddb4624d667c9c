"""Requests of each operation: the budget that its docstring names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.state.devices import Config
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, spec

ELSEWHERE = {
    # where the requests of these are counted
    "test_driver": "spawn get_instance list_instances rename set_metadata attach_volume"
    " detach_volume plug_vif unplug_vif reboot get_metrics get_available_resource destroy",
    "test_operations": "create_snapshot list_snapshots delete_snapshot hot_resize_memory screenshot"
    " guest_addresses set_vif_qos rescue unrescue rebuild in_maintenance set_disk_qos resize",
    "test_host_power": "host_power",
    "test_inside": "guest_exec set_guest_password",
    "test_migration": "check_live_migration live_migrate cold_migrate",
}


def test_the_other_operations(site: Site, image: FileImage, tmp_path: Path) -> None:
    driver, state = site.driver, site.host.state
    cached = driver.cache_image(image)
    uuid = driver.spawn(spec(image)).uuid
    nic = driver.get_instance(uuid).vifs[0].id
    point = driver.create_snapshot(uuid, "a").id
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    other = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    looks = state.faults.counts["Get-VHD"]
    driver.get_volume(volume.volume_id)
    assert state.faults.counts["Get-VHD"] == looks + 1  # of two
    stranger = Machine(host=state, config=Config(name="theirs", generation=2), path="C:\\elsewhere")
    with site.host.world.lock:
        state.machines[stranger.id] = stranger
    vifs = (HypervVif(id=nic, switch=SWITCH, vlan=9),)
    steps: list[tuple[str, str, Callable[[], object]]] = [
        ("ping", "Ping", driver.ping),
        ("host", "", driver.host),
        ("list_foreign", "List", driver.list_foreign),
        ("adopt", "Adopt", lambda: driver.adopt(stranger.id)),
        ("cache_image", "Images", lambda: driver.cache_image(image)),
        ("list_cached_images", "Images", driver.list_cached_images),
        ("get_volume_connector", "Connector", driver.get_volume_connector),
        ("list_volumes", "ListVolumes", driver.list_volumes),
        ("get_volume", "ListVolumes", lambda: driver.get_volume(volume.volume_id)),
        ("delete_volume", "DeleteVolume", lambda: driver.delete_volume(other.volume_id)),
        (
            "create_volume",
            "CreateVolume",
            lambda: driver.create_volume(VolumeSpec(size_bytes=4096)),
        ),
        ("extend_volume", "Extend", lambda: driver.extend_volume(uuid, volume.volume_id, 8 << 20)),
        ("get_console", "Console", lambda: driver.get_console(uuid, ConsoleKind.RDP)),
        # it is a poll, which the seam does not count
        ("migration_progress", "", lambda: driver.migration_progress(uuid)),
        ("pause", "Power", lambda: driver.pause(uuid)),
        ("unpause", "Power", lambda: driver.unpause(uuid)),
        ("suspend", "Power", lambda: driver.suspend(uuid)),
        ("resume", "Power", lambda: driver.resume(uuid)),
        ("inject_nmi", "Power", lambda: driver.inject_nmi(uuid)),
        ("power_off", "Power", lambda: driver.power_off(uuid)),
        ("reconnect", "Reconnect", lambda: driver.reconnect(uuid, vifs=vifs)),
        ("detach_volume", "Detach", lambda: driver.detach_volume(uuid, volume.volume_id)),
        ("revert_snapshot", "Revert", lambda: driver.revert_snapshot(uuid, point)),
        ("delete_snapshot", "DeleteSnapshot", lambda: driver.delete_snapshot(uuid, point)),
        ("migrate_storage", "Relocate", lambda: driver.migrate_storage(uuid, "second")),
        ("enter_maintenance", "EnterMaintenance", driver.enter_maintenance),
        ("exit_maintenance", "ExitMaintenance", driver.exit_maintenance),
        ("power_on", "Power", lambda: driver.power_on(uuid)),
    ]
    for operation, script, step in steps:
        with site.inner.session.seam.counting() as calls:
            step()
        assert calls == [f"hyperv.{script}"] * bool(script), operation
    target = tmp_path / "a.vhdx"
    with site.inner.session.seam.counting() as calls:
        driver.snapshot_to_image(uuid, target, ImageFormat.VHDX)
    # the pieces are not counted
    assert calls == ["hyperv.Export", "hyperv.ExportDrop"]
    driver.destroy(uuid)
    driver.destroy(stranger.id)
    with site.inner.session.seam.counting() as calls:
        driver.evict_image(cached.key)
    assert calls == ["hyperv.Evict"]
    for each in driver.list_volumes():
        driver.delete_volume(each.volume_id)
    assert site.left() == []
    known = {name for name, _, _ in steps} | {"snapshot_to_image", "evict_image", "close"}
    for names in ELSEWHERE.values():
        known |= set(names.split())
    implemented = {
        name
        for name in OPERATIONS
        if not getattr(getattr(HypervDriver, name, None), "__isabstractmethod__", True)
    }
    # abort_migration() needs a migration: test_migration. A watch() asks for as long as it is open
    assert implemented - known <= {"abort_migration", "watch"}
