"""Each volume and each NIC of an instance is named once in what a caller gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import VolumeAttachment


def named_twice(volumes: Iterable[VolumeAttachment], vifs: Iterable[VifBase]) -> str | None:
    """What is wrong with volumes and NICs of which two have one id; None if nothing is."""
    named: dict[str, Sequence[str]] = {
        "volume": [each.volume_id for each in volumes],
        "vif": [each.id for each in vifs],
    }
    for what, ids in named.items():
        if len(set(ids)) != len(ids):
            return f"the same {what} is named twice"
    return None
