"""Write the facts that docs/hypervisors.md is checked against: of each API only what it names.

    python -m tests.unit.docs.make_facts CMDLETS.json

CMDLETS.json is the documented Hyper-V, Storage and iSCSI modules; pyVmomi must be importable. A
name that the API does not have ends the run. (libvirt-python is at hand when the tests run.)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.unit.docs.page import FACTS, VSPHERE, cmdlets, names


def _vsphere() -> dict[str, list[str]]:
    from pyVmomi import VmomiSupport, vim  # noqa: F401 - loads the types

    found: dict[str, list[str]] = {}
    for owner, member in sorted(names(2, VSPHERE)):
        kind: Any = VmomiSupport.GetWsdlType("urn:vim25", owner)
        methods = {info.wsdlName for info in _infos(kind, "_methodInfo")}
        properties = {info.name for info in _infos(kind, "_propInfo")}
        if member not in methods | properties:
            raise SystemExit(f"vSphere has no {owner}.{member}")
        found.setdefault(owner, []).append(member)
    return found


def _infos(kind: Any, attribute: str) -> list[Any]:
    return [info for base in kind.__mro__ for info in getattr(base, attribute, {}).values()]


def _hyperv(source: Path) -> dict[str, list[str]]:
    documented: dict[str, Any] = {}
    for module in json.loads(source.read_text()).values():
        documented |= module
    found: dict[str, list[str]] = {}
    for cmdlet, given in sorted(cmdlets()):
        if cmdlet not in documented:
            raise SystemExit(f"no such cmdlet: {cmdlet}")
        sets = [
            set(parameters["parameters"])
            for syntax in documented[cmdlet]["syntax"]
            for parameters in syntax["sets"].values()
        ]
        if not any(set(given) <= parameters for parameters in sets):
            raise SystemExit(f"no parameter set of {cmdlet} has all of {given}")
        found[cmdlet] = sorted(set.union(*sets))
    return found


def main() -> None:
    """Write the two files."""
    FACTS.mkdir(exist_ok=True)
    for name, facts in (("vsphere", _vsphere()), ("hyperv", _hyperv(Path(sys.argv[1])))):
        text = json.dumps(facts, sort_keys=True)
        # a line for each cmdlet or type: a change is then a readable difference
        text = text.replace("], ", "],\n ")
        (FACTS / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
