"""The only reader of properties: narrow paths, in bulk, by RetrievePropertiesEx.

What the server could not give comes back as data in ``missingSet``: the session has ended (which
``session.py`` sees to), the user may not read it, or the property is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.vmware.errors import translate
from hvdrivers.vmware.session import Session

_PC = vmodl.query.PropertyCollector
_PAGE = 1000
"""Objects in one answer: a page of this size with narrow paths is about half a megabyte."""


@dataclass(frozen=True)
class Row:
    """One object and the values that were read of it."""

    obj: Any
    values: Mapping[str, Any]

    def get(self, path: str, default: Any = None) -> Any:
        """A value, or ``default`` if it is not set."""
        return self.values.get(path, default)

    def __getitem__(self, path: str) -> Any:
        return self.values[path]

    @property
    def moid(self) -> str:
        """The object's id: ``vm-12``."""
        return str(self.obj._moId)


def step(kind: type, path: str, *names: str, name: str | None = None) -> Any:
    """One step of a traversal: from objects of a type along a property, then the named steps."""
    return _PC.TraversalSpec(
        name=name or f"{kind._wsdlName}.{path}",  # type: ignore[attr-defined]
        type=kind,
        path=path,
        skip=False,
        selectSet=[_PC.SelectionSpec(name=each) for each in names],
    )


IN_POOL = [
    step(vim.ResourcePool, "resourcePool", "ResourcePool.resourcePool", "ResourcePool.vm"),
    step(vim.ResourcePool, "vm"),
]
"""From a resource pool to every machine in it and below."""
IN_FOLDERS = [
    step(vim.Folder, "childEntity", "Folder.childEntity", "Datacenter.vmFolder"),
    step(vim.Datacenter, "vmFolder", "Folder.childEntity"),
]
"""From the root folder to every machine of every datacenter."""


ON_DATASTORES = [
    step(vim.ComputeResource, "datastore", "Datastore.vm"),
    step(vim.Datastore, "vm"),
]
"""From a cluster or host to every machine that has a file on one of its datastores."""


class Reader:
    """Reads properties over one session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def one(self, obj: Any, *paths: str) -> Row:
        """Properties of one object. One call.

        Raises:
            InstanceNotFound: the object has gone.
        """
        rows = self.many([obj], *paths)
        if not rows:
            raise errors.InstanceNotFound(
                "the object has gone", vendor_code="ManagedObjectNotFound"
            )
        return rows[0]

    def many(self, objs: Sequence[Any], *paths: str) -> list[Row]:
        """Properties of several objects of one type; those that have gone are left out."""
        if not objs:
            return []
        try:
            return self.read([(type(objs[0]), paths)], [(each, []) for each in objs])
        except errors.HypervisorError as error:
            if error.vendor_code != "ManagedObjectNotFound":
                raise
            if len(objs) == 1:
                return []
        # one of them has gone, and the server does not say which: ask for each
        return [row for each in objs for row in self.many([each], *paths)]

    def below(self, root: Any, steps: Sequence[Any], kind: type, *paths: str) -> list[Row]:
        """Properties of all objects of a type that the steps reach from ``root``. One call, and one
        for each page beyond the first."""
        return self.read([(kind, paths)], [(root, steps)])

    def read(
        self,
        wanted: Iterable[tuple[type, Sequence[str]]],
        roots: Sequence[tuple[Any, Sequence[Any]]],
    ) -> list[Row]:
        """The general form: paths by type, objects with the steps from them."""
        collector = self.session.content.propertyCollector
        return [_row(each) for each in self._pages(collector, filter_spec(wanted, roots))]

    @staticmethod
    def _pages(collector: Any, spec: Any) -> list[Any]:
        options = _PC.RetrieveOptions(maxObjects=_PAGE)
        result = collector.RetrievePropertiesEx([spec], options)
        found: list[Any] = []
        while result is not None:
            found += result.objects
            if not result.token:
                break
            result = collector.ContinueRetrievePropertiesEx(result.token)
        return found


def filter_spec(
    wanted: Iterable[tuple[type, Sequence[str]]], roots: Sequence[tuple[Any, Sequence[Any]]]
) -> Any:
    """A FilterSpec as RetrievePropertiesEx and CreateFilter take it."""
    return _PC.FilterSpec(
        propSet=[_PC.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted],
        objectSet=[
            _PC.ObjectSpec(obj=obj, skip=False, selectSet=list(steps)) for obj, steps in roots
        ],
        reportMissingObjectsInResults=True,
    )


def _row(content: Any) -> Row:
    for miss in content.missingSet or ():
        fault = miss.fault
        if isinstance(fault, vim.fault.NoPermission):
            raise translate(fault) from fault
    return Row(content.obj, {each.name: each.val for each in content.propSet or ()})
