"""What the topic classes share: the session, and objects that do what several of them need."""

from __future__ import annotations

from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.event_feed import EventFeed
from hvdrivers.hyperv.image_store import ImageStore
from hvdrivers.hyperv.session import Session
from hvdrivers.hyperv.volume_sources import VolumeSources
from hvdrivers.hyperv.wiring import Wiring


class Topic:
    """Base of the topic classes; the driver joins them over one object."""

    config: HypervConfig
    session: Session
    store: ImageStore
    sources: VolumeSources
    wiring: Wiring
    feed: EventFeed
