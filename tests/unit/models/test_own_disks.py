"""Wishes for own disks: what fits a flavor, and what contradicts it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hvdrivers.models.disk import DiskRole, FileSystem, OwnDisk, disk_name
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.seed import SeedDisc

ROOT, EPHEMERAL, SWAP = DiskRole.ROOT, DiskRole.EPHEMERAL, DiskRole.SWAP


def spec(*disks: OwnDisk, **changes: Any) -> InstanceSpec:
    flavor = Flavor(vcpus=1, memory_mib=512, ephemeral_gib=1, swap_mib=changes.pop("swap", 64))
    image = changes.pop("image", HostImage(name="cirros"))
    return InstanceSpec(name="a", flavor=flavor, image=image, disks=disks, **changes)


def half(size: int | None = 512) -> OwnDisk:
    return OwnDisk(role=EPHEMERAL, size_mib=size)


@pytest.mark.parametrize(
    "disks",
    [
        (),
        (half(None),),
        (half(), half()),
        (OwnDisk(role=ROOT), OwnDisk(role=SWAP, label="swap"), half(1024)),
    ],
)
def test_what_fits(disks: tuple[OwnDisk, ...]) -> None:
    assert spec(*disks).disks == disks


@pytest.mark.parametrize(
    ("disks", "why"),
    [
        ((half(),), "ephemeral_gib"),
        ((half(None), half()), "needs size_mib"),
        ((half(), half(), half()), "together"),
        ((OwnDisk(role=ROOT), OwnDisk(role=ROOT)), "one root"),
        ((OwnDisk(role=ROOT, kept="pool/x"),), "kept root"),
    ],
)
def test_what_contradicts_the_spec(disks: tuple[OwnDisk, ...], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        spec(*disks)


def test_a_swap_disk_needs_a_size() -> None:
    with pytest.raises(ValidationError, match="swap_mib"):
        spec(OwnDisk(role=SWAP), swap=0)


def test_a_kept_root_disk_takes_the_place_of_an_image() -> None:
    kept = OwnDisk(role=ROOT, kept="default/abc-root")
    assert spec(kept, image=None).image is None
    with pytest.raises(ValidationError, match="without an image"):
        spec(image=None)


@pytest.mark.parametrize(
    "fields",
    [
        {"role": ROOT, "size_mib": 1},
        {"role": SWAP, "file_system": FileSystem.XFS},
        {"role": EPHEMERAL, "label": "data"},
        {"role": ROOT, "label": "data"},
        {"role": EPHEMERAL, "label": "much-too-long", "file_system": FileSystem.VFAT},
        {"role": EPHEMERAL, "kept": "pool/x", "file_system": FileSystem.EXT4},
    ],
)
def test_what_no_disk_has(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OwnDisk(**fields)


def test_names() -> None:
    assert [disk_name(EPHEMERAL, n) for n in range(2)] == ["ephemeral", "ephemeral-1"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_no_seed_disc(tmp_path: Path) -> None:
    """It would wait for ever for somebody who writes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told: list[str] = []

    def read() -> None:
        with pytest.raises(ValueError, match="regular") as refused:
            SeedDisc(path=pipe).read()
        told.append(str(refused.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    assert told, "it waits"
