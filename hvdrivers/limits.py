"""The limits on what comes from outside: text, files, downloads. docs/security.md lists them.

A limit is stated where an input has no natural bound, so that a hostile one costs a bounded amount
of memory and time. A value beyond a limit is refused with a typed error (InvalidRequest,
ImageRejected, a model's ValidationError); nothing is cut off in silence.
"""

from __future__ import annotations

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

TEXT_CHARACTERS = 64 * KIB
"""Characters of a text field of a model that has no tighter limit of its own."""

SECRET_CHARACTERS = 64 * KIB
"""Characters of a credential: a password, a Ceph keyring, mount options."""

USER_DATA_BYTES = 64 * KIB
"""Bytes of user data, before any encoding: what Nova and the EC2-like services accept (65,535 in
base64 there); more belongs behind an ``#include`` URL."""

SEED_CONFIGURATION_BYTES = 256 * KIB
"""Bytes of JSON of each of ``network_config``, ``network_data`` and ``meta`` of a CloudInit."""

SEED_CONFIGURATION_DEPTH = 32
"""Levels of mappings and lists in ``network_config`` and ``network_data``."""

IMAGE_FILE_BYTES = 1 * TIB
"""Bytes of an image file, holes included: each byte is hashed. ``open_image(max_bytes=)`` sets
another limit for one image."""

IMAGE_DOWNLOAD_BYTES = 256 * GIB
"""Bytes of an image from a web server, which are spooled on this machine first. ``open_image
(max_bytes=)`` sets another limit for one image."""

IMAGE_HEADERS = 64
"""HTTP headers of an HttpImage."""

IMAGE_HEADER_CHARACTERS = 16 * KIB
"""Characters of the value of one of these headers."""

HOSTS_FILE_BYTES = 1 * MIB
"""Bytes of the file of hosts, and of each file that holds a secret for it."""

COMMAND_FILE_BYTES = 16 * MIB
"""Bytes of a file whose content a command takes (``@FILE``, ``--user-data``)."""

COMMAND_NUMBER_DIGITS = 20
"""Digits of a number on the command line; 2**64 has 20."""

MOST_BYTES, MOST_KIB, MOST_MIB, MOST_GIB = 1 << 63, 1 << 53, 1 << 43, 1 << 33
"""A size that a caller asks for is less: in bytes it is a signed number of 64 bits, which is what
libvirt, vSphere and PowerShell take."""

MOST_KBIT = 1 << 53
"""Kilobits per second, and kilobits, that a caller asks for are less, for the same reason."""

WAIT_SECONDS = 366 * 24 * 3600.0
"""Seconds that a time span of a configuration may last: a year. Infinity is no time span."""

__all__ = [
    "COMMAND_FILE_BYTES",
    "COMMAND_NUMBER_DIGITS",
    "HOSTS_FILE_BYTES",
    "IMAGE_DOWNLOAD_BYTES",
    "IMAGE_FILE_BYTES",
    "IMAGE_HEADERS",
    "IMAGE_HEADER_CHARACTERS",
    "MOST_BYTES",
    "MOST_GIB",
    "MOST_KBIT",
    "MOST_KIB",
    "MOST_MIB",
    "SECRET_CHARACTERS",
    "SEED_CONFIGURATION_BYTES",
    "SEED_CONFIGURATION_DEPTH",
    "TEXT_CHARACTERS",
    "USER_DATA_BYTES",
    "WAIT_SECONDS",
]
