"""The pace of attempts while a host is away."""

from __future__ import annotations

__all__ = ["Backoff"]


class Backoff:
    """How long to wait before the next attempt, while attempts fail.

    Args:
        first: seconds after the first failure; each further failure doubles them.
        longest: seconds that are never exceeded.
    """

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def failed(self) -> None:
        """An attempt has failed."""
        self._failures += 1

    def succeeded(self) -> None:
        """An attempt has succeeded: the next failure is the first again."""
        self._failures = 0

    @property
    def delay(self) -> float:
        """Seconds to wait now."""
        if self._failures == 0:
            return 0.0
        # the exponent is bounded: a host may be away for a year
        return min(self._longest, self._first * 2.0 ** min(self._failures - 1, 32))
