"""The vSphere driver as a target of the conformance suite."""
