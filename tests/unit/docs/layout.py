"""How wide pages are when a browser lays them out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pytest

PHONE = 360
"""Pixels; a window of Chromium's is never as narrow as a phone, a frame is."""
DESK = 1280

_TELLS = """<script>
for (const each of document.querySelectorAll("details")) each.open = true;
addEventListener("load", () =>
  parent.postMessage([name, document.documentElement.scrollWidth], "*"));
</script></body>"""

_ASKS = """<body><script>
const frames = FRAMES, found = {};
function next() {
  if (!frames.length) { document.title = "done"; return; }
  const [page, width] = frames.shift(), frame = document.createElement("iframe");
  frame.name = `${page} ${width}`; frame.width = width; frame.height = 700; frame.style.border = 0;
  frame.src = page; document.body.replaceChildren(frame);
}
onmessage = each => {
  const [name, wide] = each.data;
  found[name] = wide;
  document.documentElement.dataset.found = JSON.stringify(found);
  next();
};
next();
</script></body>"""


def browser() -> str:
    """Chromium; without it the test is skipped, and says so."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("precondition missing: Chromium, to lay a page out")
    return found


def widths(folder: Path, pages: Sequence[str], sizes: Sequence[int]) -> dict[str, int]:
    """How wide each page is in a frame of each size, by ``"page size"``. All details are open.

    The pages are files below ``folder``, which this changes.
    """
    program = browser()
    for each in pages:
        path = folder / each
        path.write_text(path.read_text().replace("</body>", _TELLS))
    frames = [[page, size] for page in pages for size in sizes]
    asks = folder / "hv-all-pages.html"
    asks.write_text(_ASKS.replace("FRAMES", json.dumps(frames)))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=600000")
    shown = subprocess.run(
        [program, *options, "--dump-dom", asks.as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r'data-found="([^"]+)"', shown.stdout)
    assert found is not None, shown.stderr[-2000:]
    measured: dict[str, int] = json.loads(unescape(found[1]))
    assert len(measured) == len(frames), sorted({f"{p} {s}" for p, s in frames} - measured.keys())
    return measured
