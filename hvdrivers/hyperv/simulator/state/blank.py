"""Empty VHDX files: qemu-img makes one of each size, and all others are like it.

The identity inside is that of the first one. What a disk's identity is, ``DiskStore`` says.
"""

import os
from dataclasses import dataclass
from pathlib import Path

_PIECE = 4096


@dataclass(frozen=True)
class Blank:
    """What is in an empty file, and what qemu-img says of it."""

    length: int
    pieces: tuple[tuple[int, bytes], ...]
    """The places that are not zero, and what is there."""
    info: dict[str, object]

    @classmethod
    def of(cls, file: Path, info: dict[str, object]) -> "Blank":
        """What is in a file that was made just now."""
        pieces = []
        with file.open("rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            place = 0
            while data := stream.read(_PIECE):
                if data.strip(b"\0"):
                    pieces.append((place, data))
                place += len(data)
        return cls(length, tuple(pieces), info)

    def make(self, file: Path) -> bool:
        """A new file like it. False if there was no room for it, or a file."""
        try:
            with file.open("xb") as stream:
                for place, data in self.pieces:
                    stream.seek(place)
                    stream.write(data)
                stream.truncate(self.length)
        except FileExistsError:
            return False
        except OSError:
            file.unlink(missing_ok=True)
            return False
        return True
