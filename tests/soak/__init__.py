"""A soak: client processes work on hosts while faults strike, and a model says what must be true.

::

    make soak MINUTES=30 DRIVER=libvirt SEED=7

``run.py`` starts the hosts, the clients and the disturber, and judges at the end. ``client.py`` is
one client process: threads that own instances and do random operations on them (``worker.py`` and
``further.py``; ``mover.py`` moves one between the hosts). ``model.py`` says which outcomes each
operation allows, ``whereabouts.py`` where an instance that moves may be. ``hosts.py`` is what a
driver brings: its host, its faults, its independent observer. A violation is printed with the
seed and the journal of the instance, so that it can be repeated and followed.
"""
