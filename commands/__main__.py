"""`python -m expkit.commands` is the console script `expkit`."""

import sys

from expkit.commands import main

if __name__ == "__main__":  # spawned workers import this module under another name
    sys.exit(main())
