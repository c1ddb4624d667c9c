"""KVM and plain QEMU through libvirt. See ``docs/libvirt.md``."""
