"""Fenced blocks of Markdown pages, and how a Python block is run."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
CLUSTER = 65536


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    code: str
    line: int
    output: str | None = None
    """For Python: the text block right behind it, which is what it prints."""


def blocks_of(path: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = path.read_text()
    found = list(_FENCE.finditer(text))
    blocks = []
    for index, match in enumerate(found):
        output = None
        following = found[index + 1] if index + 1 < len(found) else None
        if (
            following is not None
            and following[1] == "text"
            and not text[match.end() : following.start()].strip()
        ):
            output = following[2]
        blocks.append(Block(match[1], match[2], text.count("\n", 0, match.start()) + 1, output))
    return blocks


def run_block(block: Block, path: Path, namespace: dict[str, object]) -> str:
    """Run a Python block, and return what it prints. Its lines are those of the page."""
    code = compile("\n" * block.line + block.code, str(path), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def write_empty_qcow2(path: Path, size: int = 1 << 30) -> None:
    """An image without data, as small as the format allows: header, refcounts, an L1 table."""
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        3,
        0,  # no backing file
        0,
        16,  # clusters of 64 KiB
        size,
        0,  # not encrypted
        max(1, -(-size // (CLUSTER * (CLUSTER // 8)))),
        3 * CLUSTER,  # L1 table
        CLUSTER,  # refcount table
        1,
        0,
        0,
    ) + struct.pack(">QQQII", 0, 0, 0, 4, 104)
    refcounts = struct.pack(">4H", 1, 1, 1, 1)
    path.write_bytes(
        header.ljust(CLUSTER, b"\0")
        + struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0")
        + refcounts.ljust(CLUSTER, b"\0")
        + bytes(CLUSTER)
    )
