"""How long each operation took, read from the lines that the guard logs."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping

from hvdrivers.conformance.engine.report import Latency


class Latencies(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seconds: dict[str, list[float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "hvdrivers", None)
        if fields is not None:
            self.seconds.setdefault(fields["operation"], []).append(fields["seconds"])

    def taken(self) -> dict[str, list[float]]:
        """What was measured since the last time, which is counted here no more."""
        self.acquire()  # an operation of another thread may end now
        try:
            taken, self.seconds = self.seconds, {}
            return taken
        finally:
            self.release()

    def add(self, measured: Mapping[str, list[float]]) -> None:
        """Count what another process has measured."""
        for operation, seconds in measured.items():
            self.seconds.setdefault(operation, []).extend(seconds)

    def table(self) -> tuple[Latency, ...]:
        rows = []
        for operation, seconds in sorted(self.seconds.items()):
            cuts = statistics.quantiles([*seconds, seconds[-1]], n=20, method="inclusive")
            rows.append(
                Latency(
                    operation=operation,
                    calls=len(seconds),
                    p50=round(cuts[9], 6),
                    p95=round(cuts[18], 6),
                )
            )
        return tuple(rows)
