"""What the conformance suite needs to run against a Hyper-V host, or against the simulator."""
