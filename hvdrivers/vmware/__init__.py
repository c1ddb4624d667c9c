"""The vSphere driver: ESXi and vCenter. Needs the extra ``vmware``."""
