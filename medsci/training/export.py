"""The model folder of a run, written anew at every checkpoint."""

__all__ = ["export_model"]

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medsci.core.denoise import Denoiser
from medsci.models.card import write_card
from medsci.models.config import ModelConfig
from medsci.models.store import save_denoiser
from medsci.training.assembly import stored_config
from medsci.training.module import DenoiserModule
from medsci.training.recipe import DistillRecipe, TrainRecipe


def export_model(module: DenoiserModule, folder: Path, *, rows: Sequence[dict[str, float]]) -> None:
    """Write the moving average with its configuration and card; every process takes part.

    The first process writes; the others help to put a sharded model together.
    """
    whole = _gathered(module)
    if not module.trainer.is_global_zero:
        return
    steps = int(module.global_step)
    recipe = module.recipe
    whole, config = _merged(whole, recipe, folder)
    last = next((row for row in reversed(rows) if "val_loss" in row), {})
    training = {
        "steps": steps,
        "batch_size": recipe.trainer.batch_size,
        "seed": recipe.seed,
        "val_loss": last.get("val_loss"),
        "processes": module.trainer.world_size,
        "torch": torch.__version__,
    }
    known: dict[str, Any] = {"training": training}
    if not config.training_size:
        known["training_size"] = module.sampler.shape[1:]
    config = config.model_copy(update=known)
    card, attachments = write_card(
        config,
        rows=rows,
        recipe=recipe.model_dump(mode="json"),
        card=recipe.card.model_dump(),
        run=_facts(module),
    )
    save_denoiser(
        whole, folder, config=config, card=card, attachments=attachments, existing="replace"
    )


def _facts(module: DenoiserModule) -> dict[str, Any]:
    """Return what only the run knows: counts of items, files left out, the class of machine."""
    source = module.train_stream.source
    facts: dict[str, Any] = {
        "n_train": source.n_items,
        "n_validation": module.validator.stream.source.n_items,
        "hardware": f"{module.trainer.world_size} x {module.device.type}",
    }
    skipped = getattr(source, "skipped", None)
    if skipped is not None:
        facts["skipped"] = {str(path): reason for path, reason in skipped}
    return facts


def _merged(denoiser: Denoiser, recipe: TrainRecipe, folder: Path) -> tuple[Denoiser, ModelConfig]:
    """Return the model with its adapters merged, and write the adapter beside it."""
    config = stored_config(recipe)
    lora = recipe.student.lora if isinstance(recipe, DistillRecipe) else None
    if lora is None or config.teacher is None:
        return denoiser, config
    from medsci.models.adapter import AdapterConfig, save_adapter
    from medsci.models.config import AdapterUse
    from medsci.nets.lora import adapter_state, merge_adapters, remove_lora

    state = adapter_state(denoiser.net)
    described = AdapterConfig(
        name=f"{recipe.name}-adapter",
        base=config.teacher.name,
        base_sha256=config.teacher.sha256,
        rank=lora.rank,
        alpha=lora.alpha or float(lora.rank),
        licence=config.licence,
    )
    saved = save_adapter(state, folder.parent / "adapter", config=described, existing="replace")
    whole = copy.deepcopy(denoiser)
    remove_lora(whole.net)
    merge_adapters(whole.net, [(state, 1.0)])
    use = AdapterUse(name=saved.name, sha256=saved.sha256)
    return whole, config.model_copy(update={"adapters": (use,)})


def _gathered(module: DenoiserModule) -> Denoiser:
    """Return the average with all of its weights here."""
    if not module.unsharded:
        return module.average
    from medsci.training.sharding import whole_state

    state = whole_state(module.average.net)
    whole = copy.deepcopy(module.unsharded[0])
    if module.trainer.is_global_zero:
        whole.net.load_state_dict(state)
    return whole
