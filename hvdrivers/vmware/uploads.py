"""Uploads that are not complete: those under way, and what dead clients have left.

An image is uploaded into a folder ``hvdrivers/images/<key>.<nonce>``, which is renamed when it is
complete. All ages are by the server's clock: the caller's may be days off.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvdrivers.driverkit.images import abandoned, refuse_alive, staged_key
from hvdrivers.vmware.files import Files, Found
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.session import Session


class PartialUploads:
    """Folders of the cache that are not renamed yet."""

    def __init__(self, session: Session, places: Places, files: Files, folders: Folders) -> None:
        self._session = session
        self._places = places
        self._files = files
        self._folders = folders

    @staticmethod
    def among(found: Sequence[Found]) -> dict[str, tuple[int, float | None]]:
        """Bytes and last write of each upload that is not complete, by its staging name."""
        uploads: dict[str, tuple[int, float | None]] = {}
        for file in found:
            # a folder in which there is nothing yet, or a file in one
            name = file.name if file.is_folder else file.folder.rpartition("/")[2]
            if staged_key(name) is None:
                continue
            size, written = uploads.get(name, (0, None))
            at = file.modified.timestamp() if file.modified is not None else None
            latest = max((each for each in (written, at) if each is not None), default=None)
            uploads[name] = size + (0 if file.is_folder else file.size), latest
        return uploads

    def in_cache(self) -> list[Found]:
        """What is in the folders of the cache. 3 calls."""
        stores = self._places.datastores()
        browser = stores.datastore(self._places.get().datastore)["browser"]
        return self._files.search(browser, self._folders.path("images"), below=True)

    def _host_now(self) -> float:
        """The server's clock. vCenter's differs from its hosts' by what NTP leaves. One call."""
        return self._session.host_now().timestamp()

    def remove_abandoned(self) -> None:
        """Remove what dead clients have left, before another upload takes room. Three calls."""
        uploads = self.among(self.in_cache())
        written = [(name, at) for name, (_, at) in uploads.items() if at is not None]
        if written:
            for name in abandoned(written, host_now=self._host_now()):
                self._files.remove_quietly(self._folders.path("images", name))

    def evict(self, key: str) -> None:
        """Remove an upload that nobody writes to. 5 calls."""
        found = self.among(self.in_cache()).get(key)
        if found is None:
            return
        refuse_alive(found[1], host_now=self._host_now())
        self._files.delete(self._folders.path("images", key))
