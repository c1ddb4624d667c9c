"""What the conformance suite needs of libvirt: the target, an independent observer, a guest."""
