"""Data on standard output, in the three forms: a table for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from hvdrivers.cli.text import json_text, shown

if TYPE_CHECKING:
    from rich.table import Table


class Output(StrEnum):
    """How data is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


_STATES = {
    "running": "green",
    "stopped": "dim",
    "paused": "yellow",
    "suspended": "yellow",
    "building": "cyan",
    "rescued": "magenta",
    "crashed": "bold red",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "skip": "dim",
    "ready": "green",
    "broken": "bold red",
}
_WIDE = 100_000  # nobody's terminal: a pipe gets whole lines, however long
_GAP = 2  # spaces between two columns
_LONG = 16  # a cell with more letters may be broken: it is no reason to give up the columns


def to_data(value: Any) -> Any:
    """Plain JSON data of models, the same for the same content: sets are sorted, secrets masked."""
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    if isinstance(value, BaseModel):
        return to_data(value.model_dump(by_alias=False))
    if isinstance(value, Mapping):
        return {str(to_data(key)): to_data(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((to_data(item) for item in value), key=lambda item: (str(type(item)), item))
    if isinstance(value, list | tuple):
        return [to_data(item) for item in value]
    plain = to_jsonable_python(value, bytes_mode="base64")
    return str(plain) if isinstance(plain, str) else plain  # not a subclass: YAML refuses those


def to_json(data: Any, *, indent: int | None = 2) -> str:
    """JSON that no terminal takes for anything else."""
    return json_text(json.dumps(data, indent=indent, ensure_ascii=not _writes_utf8()))


def _writes_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def to_yaml(data: Any) -> str:
    """YAML, likewise."""
    import yaml

    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=_writes_utf8())
    if not text.replace("\n", "").isprintable():
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=False)
    return text


def write(text: str) -> None:
    """One piece of data, at once: somebody may be reading along."""
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)  # a locale without the letter
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def emit(value: Any, output: Output, view: Callable[[], Table | str]) -> None:
    """Write a result.

    Args:
        view: makes what people see; called for a table only.
    """
    if output is Output.JSON:
        write(to_json(to_data(value)))
    elif output is Output.YAML:
        write(to_yaml(to_data(value)))
    else:
        seen = view()
        write(shown(seen, lines=True) if isinstance(seen, str) else rendered(seen))


_WHOLE = frozenset({"UUID", "STATE", "PROVIDER", "KEY", "CAPABILITY"})
"""Columns that are not broken: an identity cut in two cannot be copied."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Rows under headings. Cells are plain text: no markup, nothing a terminal would obey."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def details(fields: Mapping[str, object]) -> Table:
    """One thing: a line per field, and per item of a field that is a list."""
    made = _grid()
    for name, value in fields.items():
        items = value if isinstance(value, list | tuple) and value else [value]
        for index, item in enumerate(items):
            made.add_row("" if index else _cell(name), _cell(item))
    return made


def _grid() -> Table:
    """Names on the left, what they have on the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, _GAP, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def _cell(value: object) -> Any:
    from rich.text import Text

    text = shown(plain(value))
    return Text(text, style=_STATES.get(text, ""))


def plain(value: object) -> str:
    """A value as people write it."""
    if value is None or value in ("", (), []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, set | frozenset):
        return ", ".join(sorted(map(plain, value)))
    return str(value)


def rendered(what: Table) -> str:
    """The table as text: coloured on a terminal (NO_COLOR is honoured), whole lines in a pipe.

    On a terminal that is too narrow for the columns each row is shown below the other, a line per
    field: an identity is never cut off, nor a number broken in two.
    """
    from rich.console import Console, ConsoleDimensions

    width = None if sys.stdout.isatty() else _WIDE
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    parts = [what]
    if width is None and what.show_header and what.row_count and _needed(what) > console.width:
        parts, least = _blocks(what)
        # both: of a terminal that can do nothing (TERM=dumb) the width alone is not taken
        console.size = ConsoleDimensions(max(console.width, least), console.height)
    with console.capture() as captured:
        for number, part in enumerate(parts):
            if number:
                console.print()
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _needed(what: Table) -> int:
    """The width in which no identity is cut, and only long cells are broken: a table takes room
    from its widest columns first."""
    from rich.cells import cell_len

    total = _GAP * (len(what.columns) - 1)
    for column in what.columns:
        widest = max(cell_len(str(each)) for each in (column.header, *column.cells))
        total += widest if column.no_wrap else min(widest, _LONG)
    return total


def _blocks(what: Table) -> tuple[list[Table], int]:
    """Each row as a table of its own, with a line per field; and the width that they need so that
    an identity stands on one line."""
    from rich.cells import cell_len
    from rich.text import Text

    names = [str(column.header) for column in what.columns]
    label = max(map(cell_len, names))
    whole = [cell_len(str(cell)) for each in what.columns if each.no_wrap for cell in each.cells]
    made = []
    for row in zip(*(column.cells for column in what.columns), strict=True):
        block = _grid()
        for name, cell in zip(names, row, strict=True):
            block.add_row(Text(name.ljust(label)), cell)
        made.append(block)
    return made, label + _GAP + max(whole, default=0)


def size(count: float | None) -> str | None:
    """Bytes for people: ``1.5 GiB``."""
    if count is None:
        return None
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return (
                f"{count:.0f} {unit}"
                if unit == "B" or count == int(count)
                else f"{count:.1f} {unit}"
            )
        count /= 1024
    return f"{count:.1f} TiB"
