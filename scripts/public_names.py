"""Write the public names into ``hvdrivers/__init__.py``: ``python scripts/public_names.py``.

With ``--check`` it only says whether the file is in step.

Public is what a user's program names: every model and enumeration that a signature of the contract
names, directly or through fields, the errors, and the few entries of ``EXTRA``. The names stand
three times in the file (for type checkers, in ``__all__``, and with their homes for the lazy
import), which is why a script writes them.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "hvdrivers" / "__init__.py"
EXTRA = {
    "Capability": "hvdrivers.contract.capabilities",
    "ComputeDriver": "hvdrivers.contract.driver",
    "DeviceEvent": "hvdrivers.models.events",
    "DeviceKind": "hvdrivers.models.events",
    "Driver": "hvdrivers.contract.driver",
    "DriverConfig": "hvdrivers.models.config",
    "Event": "hvdrivers.models.events",
    "ImageRef": "hvdrivers.models.image",
    "LifecycleEvent": "hvdrivers.models.events",
    "LifecycleKind": "hvdrivers.models.events",
    "PluginInfo": "hvdrivers.plugins.discovery",
    "ResyncEvent": "hvdrivers.models.events",
    "Vif": "hvdrivers.models.vif",
    "Volume": "hvdrivers.models.volume",
    "check_state": "hvdrivers.contract.driver",
    "connect": "hvdrivers.plugins.connecting",
    "guarded": "hvdrivers.guard",
    "list_plugins": "hvdrivers.plugins.discovery",
    "parse_connection_info": "hvdrivers.models.volume",
    "provides": "hvdrivers.contract.capabilities",
    "worth_repeating": "hvdrivers.contract.errors",
}


def _classes(annotation: Any, seen: set[type]) -> Iterator[type]:
    for part in typing.get_args(annotation):
        for each in part if isinstance(part, list | tuple) else (part,):
            yield from _classes(each, seen)
    ours = isinstance(annotation, type) and annotation.__module__.startswith("hvdrivers.")
    if not ours or annotation in seen or annotation.__name__.startswith("_"):
        return
    seen.add(annotation)
    yield annotation
    if issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            yield from _classes(field.annotation, seen)


def public_names() -> dict[str, str]:
    """Every public name with the module that it is imported from."""
    found = dict(EXTRA)
    seen: set[type] = set()
    for name in OPERATIONS:
        hints = typing.get_type_hints(getattr(ComputeDriver, name), include_extras=True)
        for hint in hints.values():
            found |= {each.__name__: each.__module__ for each in _classes(hint, seen)}
    found |= {
        name: errors.__name__
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.HypervisorError)
    }
    return found


def written(text: str) -> str:
    """``__init__.py`` with the names as they are now."""
    names = public_names()
    homes: dict[str, list[str]] = {}
    for name, module in sorted(names.items()):
        homes.setdefault(module, []).append(name)
    imports = "\n".join(
        f"    from {module} import ({', '.join(found)})" for module, found in sorted(homes.items())
    )
    listed = ", ".join(f'"{name}"' for name in sorted(names))
    table = "\n".join(
        textwrap.fill(f"{module}: {' '.join(found)}", 96, subsequent_indent="    ")
        for module, found in sorted(homes.items())
    )
    head = text[: text.index("if TYPE_CHECKING:")]
    tail = text[text.index("_HOME = {") :]
    made = (
        f"{head}if TYPE_CHECKING:\n{imports}\n\n__all__ = [{listed}]\n\n"
        f'_HOMES = """\n{table}\n"""\n{tail}'
    )
    for arguments in (["check", "--fix", "--select", "I"], ["format"]):
        made = subprocess.run(
            [Path(sys.executable).parent / "ruff", *arguments, "--stdin-filename", TARGET, "-"],
            input=made,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    return made


def main() -> int:
    """Write the file, or check it."""
    text = TARGET.read_text(encoding="utf-8")
    wanted = written(text)
    if "--check" in sys.argv[1:]:
        if text != wanted:
            print(f"{TARGET.name} is not in step: python scripts/{Path(__file__).name}")
        return int(text != wanted)
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
