"""A connection of the tests' own to a vCenter or an ESXi host, beside the driver's."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen
from uuid import UUID

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from hvdrivers.addresses import bracketed
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.vmware.config import VmwareConfig

_PC = vmodl.query.PropertyCollector
_T = TypeVar("_T")


def _step(kind: Any, path: str, *then: str) -> Any:
    """A step from objects of a type along a property, and the steps after it."""
    return _PC.TraversalSpec(
        name=f"{kind.__name__}.{path}",
        type=kind,
        path=path,
        skip=False,
        selectSet=[_PC.SelectionSpec(name=each) for each in then],
    )


_FOLDER = "vim.Folder.childEntity"
_BELOW = {
    vim.Datacenter: (),
    vim.VirtualMachine: (_step(vim.Datacenter, "vmFolder", _FOLDER),),
    vim.Datastore: (_step(vim.Datacenter, "datastoreFolder", _FOLDER),),
    vim.Network: (_step(vim.Datacenter, "networkFolder", _FOLDER),),
    vim.DistributedVirtualSwitch: (_step(vim.Datacenter, "networkFolder", _FOLDER),),
    vim.ComputeResource: (_step(vim.Datacenter, "hostFolder", _FOLDER),),
    vim.HostSystem: (
        _step(vim.Datacenter, "hostFolder", _FOLDER),
        _step(vim.ComputeResource, "host"),
    ),
    vim.ResourcePool: (
        _step(vim.Datacenter, "hostFolder", _FOLDER),
        _step(vim.ComputeResource, "resourcePool", "vim.ResourcePool.resourcePool"),
        _step(vim.ResourcePool, "resourcePool", "vim.ResourcePool.resourcePool"),
    ),
}
"""The steps, beside that from a folder to what is in it, to every object of a type."""


@cache
def _steps(*kinds: Any) -> list[Any]:
    found = {
        each.name: each
        for kind in kinds
        for base, steps in _BELOW.items()
        if issubclass(kind, base)
        for each in steps
    }
    return [_step(vim.Folder, "childEntity", _FOLDER, *found), *found.values()]


class RawServer:
    """A session of its own, made again when the suite has ended it."""

    def __init__(self, config: VmwareConfig) -> None:
        self._config = config
        self._instance: Any = None
        self._content: Any = None
        self._datacenter: tuple[Any, str] | None = None

    @property
    def instance(self) -> Any:
        """The raw ServiceInstance; it has just answered."""
        return self._asked(lambda _: self._answering())

    def _answering(self) -> Any:
        self._instance.CurrentTime()
        return self._instance

    @property
    def content(self) -> Any:
        """The managers of the server, in a session that has just answered: what changes something
        must not be sent twice."""
        return self._asked(lambda content: self._answering() and content)

    def _asked(self, ask: Callable[[Any], _T]) -> _T:
        """Ask, and ask once more in a new session if the one before has ended.

        Args:
            ask: gets the managers of the server, and changes nothing.
        """
        if self._instance is not None:
            try:
                return ask(self._content)
            except (vmodl.fault.ManagedObjectNotFound, PreconditionMissing):
                raise
            except Exception:  # noqa: BLE001 - whatever it is, a new session is the answer
                self._instance._stub.DropConnections()
                self._instance = self._content = None
        config = self._config
        try:
            self._instance = SmartConnect(
                host=config.host,
                port=config.port,
                user=config.username,
                pwd=config.password.get_secret_value(),
                disableSslCertValidation=True,
            )
            self._content = self._instance.RetrieveContent()
        except Exception as error:
            raise PreconditionMissing(f"no second session on the server: {error}") from error
        return ask(self._content)

    def read(self, kind: Any, *paths: str) -> list[tuple[Any, dict[str, Any]]]:
        """Properties of every object of a type in the whole inventory."""
        return self.read_all({kind: paths})

    def read_all(self, wanted: Mapping[Any, Sequence[str]]) -> list[tuple[Any, dict[str, Any]]]:
        """The same of several types, in one request."""
        steps = _steps(*wanted)
        properties = [
            _PC.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted.items()
        ]

        def ask(content: Any) -> list[tuple[Any, dict[str, Any]]]:
            root = _PC.ObjectSpec(obj=content.rootFolder, skip=False, selectSet=steps)
            return _collected(content, _PC.FilterSpec(objectSet=[root], propSet=properties))

        return self._asked(ask)

    def of(self, obj: Any, *paths: str) -> dict[str, Any]:
        """Properties of one object."""
        spec = _PC.FilterSpec(
            objectSet=[_PC.ObjectSpec(obj=obj, skip=False)],
            propSet=[_PC.PropertySpec(type=type(obj), pathSet=list(paths))],
        )
        return self._asked(lambda content: _collected(content, spec))[0][1]

    def machine(self, uuid: UUID) -> Any:
        """A raw virtual machine."""
        found = self._asked(
            lambda content: content.searchIndex.FindAllByUuid(None, str(uuid), True, True)
        )
        if not found:
            raise PreconditionMissing(f"there is no machine {uuid}")
        return found[0]

    def wait(self, task: Any) -> Any:
        """Wait for a task; its result."""
        while True:
            found = self.of(task, "info.state", "info.error", "info.result")
            if found["info.state"] == "success":
                return found.get("info.result")
            if found["info.state"] == "error":
                raise found["info.error"]

    @property
    def datacenter(self) -> tuple[Any, str]:
        """The datacenter and its name."""
        wanted = self._config.datacenter
        if self._datacenter is None:
            for obj, values in self.read(vim.Datacenter, "name"):
                if wanted in (None, values["name"]):
                    self._datacenter = obj, values["name"]
                    break
            else:
                raise PreconditionMissing("there is no datacenter")
        return self._datacenter

    def file(self, path: str, body: bytes | None = None) -> bytes | None:
        """Read a file of a datastore, or write it; None if it is not there."""
        datastore, _, inside = path.removeprefix("[").partition("] ")
        where = f"dcPath={quote(self.datacenter[1])}&dsName={quote(datastore)}"
        config = self._config
        url = f"https://{bracketed(config.host)}:{config.port}/folder/{quote(inside)}?{where}"
        request = Request(url, data=body, method="GET" if body is None else "PUT")
        request.add_header("Cookie", self.instance._stub.cookie.partition(";")[0])
        context = ssl._create_unverified_context()  # noqa: S323 - the same server, again
        try:
            with urlopen(request, context=context, timeout=60) as reply:  # noqa: S310
                return bytes(reply.read())
        except HTTPError as error:
            with error:  # it has the connection
                if error.code == 404:
                    return None
                raise

    def drop(self) -> None:
        """Log out."""
        if self._instance is not None:
            instance, self._instance, self._content = self._instance, None, None
            with suppress(Exception):  # it has ended already
                Disconnect(instance)
            instance._stub.DropConnections()


def _collected(content: Any, spec: Any) -> list[tuple[Any, dict[str, Any]]]:
    collector = content.propertyCollector
    result = collector.RetrievePropertiesEx([spec], _PC.RetrieveOptions())
    found = list(result.objects) if result is not None else []
    while result is not None and result.token:
        result = collector.ContinueRetrievePropertiesEx(result.token)
        found += result.objects
    for miss in (miss for each in found for miss in each.missingSet or ()):
        if isinstance(miss.fault, vim.fault.NotAuthenticated):
            raise miss.fault  # a read in a session that has ended succeeds, and says so here
    return [(each.obj, {p.name: p.val for p in each.propSet}) for each in found]
