"""Which iSCSI targets the driver has told hosts of: an empty folder on the datastore for each.

A host keeps its static targets and not who has added one. Those of an administrator stay, so the
driver notes its own: before a host is told of a target that no host of the cluster was told of. The
note goes when the hosts have been logged out. It is made first, so a process that dies between the
two leaves nothing that nobody takes away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import sha256

from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.place import Places

_KIND = "targets"


class ToldTargets:
    """The driver's own iSCSI targets, by their names in small letters."""

    def __init__(self, places: Places, files: Files, folders: Folders) -> None:
        self._places = places
        self._files = files
        self._folders = folders

    def note(self, names: Iterable[str]) -> None:
        """Note that the driver tells hosts of targets. One call for each."""
        for name in sorted(names):
            self._files.make_folder(self._path(name), parents=True)

    def among(self, names: Collection[str]) -> frozenset[str]:
        """Those of these targets that the driver has told hosts of. 3 calls; none without names."""
        if not names:
            return frozenset()
        place = self._places.get()
        store = self._places.datastores().datastore(place.datastore)
        inside = self._files.search(store["browser"], self._folders.path(_KIND))
        noted = {each.name for each in inside}
        return frozenset(name for name in names if _word(name) in noted)

    def forget(self, names: Iterable[str]) -> None:
        """No host knows these targets any more. 2 calls for each."""
        for name in sorted(names):
            self._files.delete(self._path(name))

    def _path(self, name: str) -> str:
        return self._folders.path(_KIND, _word(name))


def _word(name: str) -> str:
    """A name for a folder: that of a target may have anything in it."""
    return sha256(name.encode()).hexdigest()[:32]
