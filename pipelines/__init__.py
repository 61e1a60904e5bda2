"""Jobs: one file each, a file in and a file out.

Import a job from its own module, for example
`from medsci.pipelines.recon import recon`. The command line adds nothing but argument
parsing on top, so whatever `medsci` does a notebook can do with the same call.
"""

__all__ = ["Progress"]

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called as `progress(done, total, text)` while a long step runs."""
