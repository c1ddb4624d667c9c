"""The contract: what every driver does, in one file per topic. Read them in this order.

``states.py``
    the states of an instance and the table of what is allowed in which.
``lifecycle.py``, ``power.py``
    from an image to a running machine, and back to nothing.
``storage.py``, ``network.py``, ``images.py``, ``snapshots.py``, ``shares.py``
    what a machine is made of and wired to.
``consoles.py``, ``guest.py``, ``events.py``, ``metrics.py``
    what a machine shows and tells.
``migration.py``, ``resources.py``, ``maintenance.py``, ``connection.py``
    the host.
``errors.py``
    how things fail, and what the caller should do.
``capabilities.py``, ``requirements.py``, ``operation.py``
    how optional things are declared and asked for.
``driver.py``
    all of it joined: ``Driver``, which an author writes, and ``ComputeDriver``, which a user gets.
"""
