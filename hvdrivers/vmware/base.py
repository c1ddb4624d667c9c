"""What every topic class has: the objects that topics share.

A topic class keeps the contract's operations. What two topics need is a method of one of these
objects, or a function; none of them knows a topic. So a call says where it leads:
``self.machines.get(...)`` is in the room that ``machines`` is annotated with here.
"""

from __future__ import annotations

from hvdrivers.vmware.changes import Changes
from hvdrivers.vmware.claim import Claims
from hvdrivers.vmware.cloning import Cloning
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.destroy import Removal
from hvdrivers.vmware.encrypted_memory import EncryptedMemory
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.functions import Functions
from hvdrivers.vmware.groups import Groups
from hvdrivers.vmware.guest_programs import Programs
from hvdrivers.vmware.images import ImageStore
from hvdrivers.vmware.leaving_rescue import Rescues
from hvdrivers.vmware.listing import Listing
from hvdrivers.vmware.luns import Luns
from hvdrivers.vmware.machines import Machines
from hvdrivers.vmware.moves import Moves
from hvdrivers.vmware.own_disks import KeptDisks
from hvdrivers.vmware.passthrough import Passthrough
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.power_switch import PowerSwitch
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.room import Room
from hvdrivers.vmware.seen_images import SeenImages
from hvdrivers.vmware.session import Session
from hvdrivers.vmware.tasks import Tasks
from hvdrivers.vmware.templates import Templates
from hvdrivers.vmware.uploads import PartialUploads
from hvdrivers.vmware.usage import Usage
from hvdrivers.vmware.volumes import VolumeSources


class Topic:
    """Base of the topic classes. ``VmwareDriver`` makes these objects."""

    config: VmwareConfig
    session: Session
    reader: Reader
    """Properties of objects, in bulk."""
    tasks: Tasks
    """What the server does at length."""
    places: Places
    """The datacenter, the cluster or host, and what is around it."""

    files: Files
    """Files on datastores."""
    folders: Folders
    """Where the driver's own files are."""

    machines: Machines
    """Machines: find one, or list all."""
    changes: Changes
    """Machines: change what one is made of."""
    power: PowerSwitch
    """Machines: switch one on, or off."""
    moves: Moves
    """Machines: what is moving one."""

    listing: Listing
    """Machines, in the words of the contract."""
    claims: Claims
    """One spawn at a time of a UUID."""
    cloning: Cloning
    """Spawn from a template."""
    removal: Removal
    """The end of an instance, or of what there is of it."""
    rescues: Rescues
    """What a rescue leaves until the next start."""

    images: ImageStore
    """Images on the host, or brought there."""
    uploads: PartialUploads
    seen: SeenImages
    """What is remembered of images and templates."""
    templates: Templates
    """What vCenter clones machines from."""
    kept_disks: KeptDisks
    """Host volumes that become disks of an instance."""

    room: Room
    """What there is room for."""
    passthrough: Passthrough
    """Devices of the host for machines."""
    functions: Functions
    """Virtual functions of the host's adapters for NICs."""
    encrypted_memory: EncryptedMemory
    """Hosts that encrypt the memory of machines."""
    groups: Groups
    """Machines that the cluster keeps together, or apart."""
    usage: Usage
    """What other machines have."""
    volumes: VolumeSources
    """Volumes as files."""
    luns: Luns
    """LUNs of storage arrays, as the hosts see them."""

    programs: Programs
    """Programs in guests."""
