"""The topic files, which declare clauses and checks when they are imported."""

from __future__ import annotations

from importlib import import_module

TOPICS = (
    "static",
    "connection",
    "lifecycle",
    "making",
    "looking",
    "foreign",
    "reshape",
    "sizes",
    "noroom",
    "states",
    "power",
    "cpus",
    "standstill",
    "storage",
    "volumes",
    "hostvolumes",
    "network",
    "ports",
    "resources",
    "metrics",
    "images",
    "imageuse",
    "shares",
    "consoles",
    "snapshots",
    "copies",
    "guest",
    "migration",
    "moving",
    "maintenance",
    "events",
    "telling",
    "freedoms",
    "laws",
    "progress",
    "hostile",
    "concurrency",
    "leaks",
    "faults",
    "model",
)


def load() -> None:
    """Import them all."""
    for topic in TOPICS:
        import_module(f"hvdrivers.conformance.{topic}")
