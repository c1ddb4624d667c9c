"""Helpers for demos and for the tests of drivers and orchestrators; not for production.

``hvdrivers.testing.guestimage`` builds a tiny Linux guest that reports on its serial console what
it sees of its virtual hardware.
"""
