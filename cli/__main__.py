"""`python -m medsci.cli`: the `medsci` command for launchers that start modules, as torchrun."""

import sys

from medsci.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
