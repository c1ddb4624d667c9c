"""What a caller can do, where several drivers tell the same."""

from __future__ import annotations

from typing import Final

CALL_AGAIN: Final = "call again"

# ---- what is named ------------------------------------------------------------------------------

ATTACHED: Final = "get_instance() shows those that it has"
VOLUMES: Final = "list_volumes() shows those that the host has"
SNAPSHOTS: Final = "list_snapshots() shows those that it has"
DEVICES: Final = "get_available_resource().devices names those that the host has"
PROGRAM: Final = "the first word of command is the program's path"
PROGRAM_LOST: Final = (
    "the program may have run, and another call runs it again: look in the guest for what it does"
)
NEW_FILE: Final = "name a file that does not exist, in a folder that this process may write to"
CA_FILE: Final = "name a PEM file of this machine that the user may read"
ANOTHER_NAME: Final = "choose another name"

# ---- kinds --------------------------------------------------------------------------------------

VOLUME_KINDS: Final = "the driver's capabilities name the kinds that there are (volume-...)"
VIF_KINDS: Final = "the driver's capabilities name the kinds that there are (vif-...)"
AT_STORAGE: Final = "leave the limit out, or set it at the storage server"

# ---- images -------------------------------------------------------------------------------------

ON_THE_HOST: Final = "spawn() from it as it is"
EVICTED: Final = "call again: the image is brought to the host again"
UNREADABLE: Final = "look at the disk or server of this machine that the file is on, and call again"
TOO_LARGE: Final = "give a smaller image: hvdrivers.limits has how large one may be"
IMAGE_URL: Final = "give the URL at which the image itself is"
WEB_URL: Final = "write it as https://HOST/PATH"
USED_IMAGE: Final = "destroy() the instances whose disks are based on it first"

# ---- sizes and room -----------------------------------------------------------------------------

SMALLER_FLAVOR: Final = "choose a smaller flavor, or another host"
LARGER_DISK: Final = "choose a flavor with a larger disk"
NO_SHRINKING: Final = "give at least the size that it has now"
SAME_DISKS: Final = (
    "choose a flavor with the same ephemeral_gib and swap_mib; create_volume() and attach_volume()"
    " give more room"
)
RESIZE_OFF: Final = "power_off() it, and resize() it to another flavor"
SHARE_OUT: Final = "share the disks and NICs out between several machines"
DETACH_ONE: Final = "detach_volume() one of them first"
UNPLUG_ONE: Final = "unplug_vif() one of them first"
ROOM_IN_POOL: Final = "free room there, or name another pool"
OPEN_HOST: Final = "exit_maintenance() the host, or choose another one"
MEND_MOVE: Final = "mend what stands in its way, or choose another destination"
OTHER_DEVICE: Final = "destroy() that machine, or choose another device"
OTHER_SLICE: Final = "destroy() a machine that has one, or choose another type or host"

# ---- volumes and NICs ---------------------------------------------------------------------------

DETACH_FIRST: Final = "detach_volume() it first"
ANOTHER_DISK: Final = "name another disk, or detach_volume() the other volume first"
BOOTS: Final = "destroy() leaves the volume as it is"
GUEST_KEEPS: Final = (
    "the guest may be booting, or use the device: unmount it there, then call again"
)
TAKEN_ADDRESS: Final = "unplug_vif() the NIC that has it first, or give another mac"
VOLUME_ROOT: Final = "work on that volume where it is kept"
COPY_VOLUME: Final = "copy the volume at its storage server"
WRITE_VOLUME: Final = "write the image to the volume at its storage server"

# ---- snapshots ----------------------------------------------------------------------------------

TAKEN_SNAPSHOT: Final = "choose another name, or delete_snapshot() that one"
NO_MEMORY: Final = "power_on() it, or leave the memory out"
OTHER_HARDWARE: Final = "bring them back, or revert to a snapshot without memory"

# ---- guests -------------------------------------------------------------------------------------

ACCOUNT: Final = "give credentials= of an account that the guest has"
USER: Final = "name a user that the guest has"
