"""The Hyper-V backend: pywinrm, one PowerShell kept open on the host, constant scripts.

Not verified on a Hyper-V host: the tests run against ``hvdrivers.hyperv.simulator``.
"""
