"""`python -m expkit.commands` is the console script `expkit`."""

import sys

from expkit.commands import main

sys.exit(main())
