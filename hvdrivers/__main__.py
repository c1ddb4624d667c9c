"""``python -m hvdrivers``: the command, for where its script is not on the PATH."""

from hvdrivers.cli import main

if __name__ == "__main__":
    main()
