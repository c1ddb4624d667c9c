"""Server groups: machines that a host which is a cluster keeps together, or apart.

The words are Nova's. A caller that has the choice between hosts needs none of this: it places each
machine itself. A vCenter cluster is one host of this library, and chooses among its own hosts, so
there the caller says what it wants by a group.
"""

from __future__ import annotations

from enum import StrEnum

from hvdrivers.models.base import Model, Name


class ServerGroupPolicy(StrEnum):
    """What the members of a group want of each other."""

    AFFINITY = "affinity"
    """All on one host."""
    ANTI_AFFINITY = "anti-affinity"
    """Each on a host of its own."""
    SOFT_AFFINITY = "soft-affinity"
    """On one host where that can be; a member runs all the same where it cannot."""
    SOFT_ANTI_AFFINITY = "soft-anti-affinity"
    """On hosts of their own where that can be."""

    @property
    def mandatory(self) -> bool:
        """Whether a member may not run where the policy is not met."""
        return self in {ServerGroupPolicy.AFFINITY, ServerGroupPolicy.ANTI_AFFINITY}

    @property
    def apart(self) -> bool:
        """Whether the members want to be on different hosts."""
        return self in {ServerGroupPolicy.ANTI_AFFINITY, ServerGroupPolicy.SOFT_ANTI_AFFINITY}


class ServerGroup(Model):
    """The group that an instance is a member of. It is there as long as it has members."""

    name: Name
    """Its identity among the groups of the host: two groups with one name are one. With Nova's
    groups: the UUID."""
    policy: ServerGroupPolicy
    """The same for all members."""
