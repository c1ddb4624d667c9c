"""The vSphere driver: ESXi and vCenter. Needs the extra ``hvdrivers[vmware]``."""
