"""Fixtures for all tests. Servers start when the first test asks for one."""

from __future__ import annotations

from tests.peers.fixtures import guest_image, libvirt_peer, linux_bridge, ovs_bridge

__all__ = ["guest_image", "libvirt_peer", "linux_bridge", "ovs_bridge"]
