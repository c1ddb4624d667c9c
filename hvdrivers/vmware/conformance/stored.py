"""What is on a datastore: asked of the server, or read where the server keeps it.

A simulator keeps its datastores in folders of the machine that it runs on. There the observer looks
into the folder itself: a search is a task of the server, and a picture of the host would be several
of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyVmomi import vim

from hvdrivers.vmware.conformance.raw_server import RawServer


def folder_of(url: str) -> Path | None:
    """The folder of this machine that a datastore is, by its ``summary.url``; None: it is none."""
    scheme, separator, path = url.rpartition("://")
    if separator and scheme != "file":
        return None
    folder = Path(path)
    return folder if folder.is_absolute() and folder.is_dir() else None


def by_folder(root: Path) -> Iterator[tuple[str, str]]:
    """Each file and folder: the folder that it is in, from the root, and its name."""
    for folder, folders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        for name in (*folders, *files):
            yield "" if inside == "." else inside, name


def by_search(server: RawServer, name: str, browser: Any) -> Iterator[tuple[str, str]]:
    """The same, as the server tells it."""
    spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*"])
    try:
        found = server.wait(browser.SearchDatastoreSubFolders_Task(f"[{name}]", spec))
    except vim.fault.FileNotFound:
        return
    for folder in found:
        inside = folder.folderPath.partition("]")[2].strip(" /")
        for each in folder.file:
            yield inside, each.path


WANTED = ("name", "browser", "summary.accessible", "summary.url")
"""What is read of a datastore for :func:`everything`."""


def everything(
    server: RawServer, rows: Iterable[tuple[Any, Mapping[str, Any]]]
) -> Iterator[tuple[str, str, str]]:
    """Each file and folder of each datastore that can be reached: the datastore's name before.

    Args:
        rows: objects that were read, the datastores among them.
    """
    for obj, values in rows:
        if not isinstance(obj, vim.Datastore) or not values.get("summary.accessible"):
            continue
        name = values["name"]
        folder = folder_of(values.get("summary.url") or "")
        found = by_folder(folder) if folder else by_search(server, name, values["browser"])
        for inside, each in found:
            yield name, inside, each
