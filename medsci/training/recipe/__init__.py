"""The training recipe: frozen models that say everything about a run.

Choices are closed sets told apart by `kind`, tasks by `task`; a recipe never names code to import.
Reading a file, merging `--set key=value` and wording the errors is `medsci.training.reading`.
"""

__all__ = ["TASKS", "DistillRecipe", "GanRecipe", "PriorRecipe", "TrainRecipe"]

from medsci.training.recipe.tasks import TASKS, DistillRecipe, GanRecipe, PriorRecipe, TrainRecipe
