"""What every driver's configuration shares."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from hvdrivers.models.base import Model

CREDENTIALS_HINT = (
    "a program gives password= to connect(); for the command put the host into the file of hosts,"
    " with password_file= (`hvdrivers hosts --help` names the file)"
)
"""The hint of an error that misses a password. It names no way to give one on a command's line,
where all users of the machine can read it."""


class DriverConfig(Model):
    """Base of a driver's configuration. Unknown keys are errors. Each driver adds its own fields:
    ``uri`` for libvirt, ``host`` and credentials elsewhere.

    Only what the caller passes counts. A library that read the environment by itself would
    connect the same two lines of code to different hosts.
    """

    operation_timeout_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Multiplies the default timeout of every operation: 3.0 for a slow host."""

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Make a configuration from a URL whose scheme is registered for this driver.

        Args:
            options: further fields, beside what the URL says.

        Raises:
            ValueError: the driver is not addressed by a URL; connect() says so by InvalidRequest.
        """
        del options
        # the URL itself may hold a password: it is not repeated
        raise ValueError(f"this driver is not addressed by a URL ({url.partition(':')[0]}:...)")
