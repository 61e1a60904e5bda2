"""A process of a run in double precision, where rounding cannot hide behind Adam's scale."""

import functools
import sys

from pytorch_lightning import Trainer

from medsci.cli.main import main
from medsci.training import run

if __name__ == "__main__":
    run.Trainer = functools.partial(Trainer, precision="64-true")
    sys.exit(main(sys.argv[1:]))
