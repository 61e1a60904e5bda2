"""What every section of a recipe is: frozen, closed, checked."""

__all__ = ["Frozen", "Probability", "Seed"]

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Frozen(BaseModel):
    """A section: unknown keys are errors, numbers are finite, nothing changes once read.

    A section that finds two keys in conflict raises `ValueError("key.key: what is wrong")`, with
    the keys counted from the recipe, so that the message names the place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
