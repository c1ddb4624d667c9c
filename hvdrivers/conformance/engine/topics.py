"""The topic files, which declare clauses and checks when they are imported."""

from __future__ import annotations

from importlib import import_module

TOPICS = (
    "static",
    "connection",
    "limits",
    "fields",
    "lifecycle",
    "spawn_options",
    "own_disks",
    "numa",
    "instance_info",
    "foreign",
    "rescue_rebuild",
    "resize",
    "storage_full",
    "states",
    "power",
    "crash_dump",
    "cpus",
    "pause_suspend",
    "storage",
    "volumes",
    "swap_volume",
    "storage_secrets",
    "storage_servers",
    "host_volumes",
    "network",
    "detach",
    "ports",
    "resources",
    "metrics",
    "images",
    "image_use",
    "image_trust",
    "image_formats",
    "partial_uploads",
    "shares",
    "consoles",
    "snapshots",
    "snapshot_tree",
    "export_backup",
    "guest",
    "migration",
    "migration_effects",
    "moves",
    "reconnect",
    "seeds",
    "maintenance",
    "events",
    "events_devices",
    "events_optional",
    "optional_behaviour",
    "invariants",
    "progress",
    "hostile",
    "concurrency",
    "two_connections",
    "leaks",
    "faults",
    "fault_undo",
    "model",
)


def load() -> None:
    """Import them all."""
    for topic in TOPICS:
        import_module(f"hvdrivers.conformance.checks.{topic}")
