"""A connection of the tests' own to a vCenter or an ESXi host, beside the driver's."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any
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


class RawServer:
    """A session of its own, made again when the suite has ended it."""

    def __init__(self, config: VmwareConfig) -> None:
        self._config = config
        self._instance: Any = None
        self._content: Any = None

    @property
    def instance(self) -> Any:
        """The raw ServiceInstance; it has just answered."""
        if self._instance is not None:
            try:
                self._instance.CurrentTime()
                return self._instance
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
        except Exception as error:
            raise PreconditionMissing(f"no second session on the server: {error}") from error
        return self._instance

    @property
    def content(self) -> Any:
        """The managers of the server."""
        instance = self.instance
        if self._content is None:
            self._content = instance.RetrieveContent()
        return self._content

    def read(self, kind: Any, *paths: str) -> list[tuple[Any, dict[str, Any]]]:
        """Properties of every object of a type, through a view of the whole inventory."""
        content = self.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
        try:
            spec = _PC.FilterSpec(
                objectSet=[
                    _PC.ObjectSpec(
                        obj=view,
                        skip=True,
                        selectSet=[
                            _PC.TraversalSpec(name="view", type=type(view), path="view", skip=False)
                        ],
                    )
                ],
                propSet=[_PC.PropertySpec(type=kind, pathSet=list(paths))],
            )
            options = _PC.RetrieveOptions()
            result = content.propertyCollector.RetrievePropertiesEx([spec], options)
            found = list(result.objects) if result is not None else []
            while result is not None and result.token:
                result = content.propertyCollector.ContinueRetrievePropertiesEx(result.token)
                found += result.objects
        finally:
            view.DestroyView()
        return [(each.obj, {p.name: p.val for p in each.propSet}) for each in found]

    def of(self, obj: Any, *paths: str) -> dict[str, Any]:
        """Properties of one object."""
        spec = _PC.FilterSpec(
            objectSet=[_PC.ObjectSpec(obj=obj, skip=False)],
            propSet=[_PC.PropertySpec(type=type(obj), pathSet=list(paths))],
        )
        collector = self.content.propertyCollector
        result = collector.RetrievePropertiesEx([spec], _PC.RetrieveOptions())
        return {p.name: p.val for p in result.objects[0].propSet}

    def machine(self, uuid: UUID) -> Any:
        """A raw virtual machine."""
        found = self.content.searchIndex.FindAllByUuid(None, str(uuid), True, True)
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
        for obj, values in self.read(vim.Datacenter, "name"):
            if wanted in (None, values["name"]):
                return obj, values["name"]
        raise PreconditionMissing("there is no datacenter")

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
