"""What a soak looks for."""

from __future__ import annotations


class Violation(Exception):
    """Something that must not be. The message says what."""
