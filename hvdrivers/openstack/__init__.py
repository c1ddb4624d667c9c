"""OpenStack's shapes, read and written as they are: Neutron, Nova and os-vif here, Cinder's
``connection_info`` in :mod:`hvdrivers.models.volume`."""
