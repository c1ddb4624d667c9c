"""A mutant with an error class of its own. It has its own file, as its class stays registered."""

from __future__ import annotations

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver


class FakeQuotaExceeded(errors.InsufficientResources):
    """Forgets what it was about on its way to another process."""

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message,))


@mutant("STATIC-008")
class ErrorForgetsOnTheWay(FakeDriver):
    """An error class of its own loses operation, host and instance when it is pickled."""

    quota_error = FakeQuotaExceeded
