"""``python -m tests.peers.vcsim [--mode esx] COMMAND...``: a command beside a simulator."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.peers.precondition import PreconditionMissing
from tests.peers.vcsim import PASSWORD, USER, VcsimPeer


def main(words: list[str]) -> int:
    mode = "vpx"
    if words[:1] == ["--mode"]:
        mode, words = words[1], words[2:]
    try:
        peer = VcsimPeer(mode)
    except PreconditionMissing as error:
        print(f"precondition missing: {error}", file=sys.stderr)
        return 3
    with peer:
        values = {
            "host": str(peer.options["host"]),
            "port": str(peer.options["port"]),
            "user": USER,
            "password": PASSWORD,
            "thumbprint": peer.thumbprint,
            "control": peer.control,
        }
        command = words
        for name, value in values.items():
            command = [word.replace(f"{{{name}}}", value) for word in command]
        environment = os.environ | {f"HVDRIVERS_VCSIM_{k.upper()}": v for k, v in values.items()}
        try:
            return subprocess.run(command, env=environment, check=False).returncode
        except KeyboardInterrupt:  # the command got it too
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
