"""From recipe to objects: data, networks, objective, sampler, and what is stored about them."""

__all__ = ["Parts", "Sampler", "build_parts", "build_source", "check_fit", "stored_config"]

from medsci.training.assembly.description import stored_config
from medsci.training.assembly.fit import check_fit
from medsci.training.assembly.parts import Parts, build_parts, build_source
from medsci.training.assembly.sampler import Sampler
