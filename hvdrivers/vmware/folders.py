"""The driver's folders on the datastores: ``[datastore] hvdrivers/instances/<uuid>``."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.names import datastore_path
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.session import Session, by_chance


class Folders:
    """Names the driver's folders, and makes them."""

    def __init__(self, config: VmwareConfig, session: Session, places: Places, files: Files):
        self._config = config
        self._session = session
        self._places = places
        self._files = files

    def path(self, kind: str, *parts: str, datastore: str | None = None) -> str:
        """A path below the driver's folder of this kind: ``images``, ``host-images``,
        ``instances``, ``volumes``. Without a datastore it is on that of the place."""
        where = datastore or self._places.get().datastore
        return datastore_path(where, self._config.directory, kind, *parts)

    def instance(self, uuid: UUID) -> str:
        """The folder of an instance."""
        return self.path("instances", str(uuid))

    def holds(self, path: str, *kinds: str) -> bool:
        """Whether a path is below one of the driver's folders, on whatever datastore."""
        ours = tuple(f"{self._config.directory}/{kind}/" for kind in kinds)
        return path.partition("] ")[2].startswith(ours)

    def ensure(self) -> None:
        """Make the folders on the datastore of the place. Three calls, once a session."""
        self._session.link.fact("folders", lambda _login: self._made())

    def _made(self) -> bool:
        with by_chance():
            for kind in ("images", "instances", "volumes"):
                self._files.make_folder(self.path(kind), parents=True)
        return True
