"""One line of ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hvdrivers.contract import errors


class Status(StrEnum):
    """What a check found, from good to bad."""

    OK = "ok"
    SKIP = "skip"
    """The driver or the contract cannot tell."""
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    check: str
    status: Status
    detail: str
    hint: str | None = None
    error: errors.HypervisorError | None = None

    def as_data(self) -> dict[str, object]:
        """The line for JSON and YAML."""
        return {
            "check": self.check,
            "status": str(self.status),
            "detail": self.detail,
            "hint": self.hint,
        }


def failed(name: str, error: errors.HypervisorError) -> Check:
    """The line for a check that an error ended."""
    return Check(name, Status.FAIL, str(error), error.hint, error)
