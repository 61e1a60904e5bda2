"""Model cards: what a model has seen, how it was trained, what it is for."""

__all__ = ["write_card"]

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medsci.models.config import AdapterUse, ModelConfig, TeacherConfig

_Rows = Sequence[Mapping[str, float]]


def write_card(
    config: ModelConfig,
    *,
    rows: _Rows,
    recipe: Mapping[str, Any],
    card: Mapping[str, Any],
    run: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, bytes]]:
    """Return the text of `MODEL_CARD.md` and the files it refers to.

    Args:
        config: the stored configuration.
        rows: the log of the run, with `step`, `train_loss`, `val_loss` and losses per level.
        recipe: the resolved recipe as plain data; may be empty for a model that was not trained
            here.
        card: title, intended use and limits in words.
        run: what only the run knows: `n_train` and `n_validation`, counts of items or files;
            `skipped`, files left out with the reason, a mapping; `hardware`, its class in words,
            for which a name of a machine is never taken.
    """
    lines = [f"# {card.get('title') or config.name}", "", config.data or "(no data described)", ""]
    for key, heading in (("intended_use", "Intended use"), ("limits", "Limits")):
        if card.get(key):
            lines += [f"## {heading}", "", str(card[key]), ""]
    lines += ["## How to load", "", *_how_to_load(config), ""]
    lines += ["## Training", "", *_facts(config, rows, recipe), *_run_facts(run or {}), ""]
    attachments = {}
    if any("train_loss" in row for row in rows):
        attachments["loss.png"] = _loss_curve(rows)
        lines += ["![Loss over steps](loss.png)", ""]
    lines += _levels(rows)
    lines += ["## Licence", "", config.licence, ""]
    return "\n".join(lines), attachments


def _how_to_load(config: ModelConfig) -> list[str]:
    lines = ["```python", "import medsci",
             f'denoiser = medsci.models.load_denoiser("{config.name}")', "```"]  # fmt: skip
    if config.network.n_labels:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(config.labels))
        lines += ["", f"It takes `label`, int64 numbers below {config.network.n_labels}"
                  + (f": {names}." if names else ".")]  # fmt: skip
        if getattr(config.network, "null_label", True):
            lines[-1] += f" Label {config.network.n_labels} means none, for guidance."
    lines += _conditions(config)
    latent_dim = int(getattr(config.network, "latent_dim", 0))
    if config.sampler is not None and latent_dim:
        lines += ["", "It draws with a latent, fresh at every step:", "", "```python",
                  "import numpy as np", "from medsci.core import Linear, Rng",
                  "from medsci.core.learn import BridgeGan", "",
                  f"times = tuple(np.linspace(1.0, 0.0, {config.sampler.steps + 1}).tolist())",
                  "gan = BridgeGan(Linear(denoiser.path), times=times, "
                  f"latent_dim={latent_dim})",
                  "samples = gan.sample(denoiser, shape, rng=Rng(0, range(shape[0])))",
                  "```"]  # fmt: skip
    elif config.sampler is not None:
        lines += ["", f"It must be sampled in {config.sampler.steps} evaluations by the solver "
                  f"`{config.sampler.solver}`; more or others make it worse."]  # fmt: skip
    return lines


def _conditions(config: ModelConfig) -> list[str]:
    """Say which covariates and which condition image the network takes, if any."""
    lines = []
    n_covariates = int(getattr(config.network, "n_covariates", 0))
    if n_covariates:
        lines += ["", f"It takes `covariates`, float32 (b, {n_covariates}), each as (value - mean) "
                  "/ sd, and NaN for each that is not given; without them it draws from its whole "
                  "population."]  # fmt: skip
    if config.covariates:
        lines += [
            "",
            "| covariate | unit | mean | sd | seen in training |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {c.name} | {c.unit or '1'} | {c.mean:g} | {c.std:g} | {c.low:g} to {c.high:g} |"
            for c in config.covariates
        ]
    n_image = int(getattr(config.network, "condition_channels", 0))
    if n_image:
        lines += ["", f"It takes `image`, float32 (b, {n_image}, *space) on the grid of the "
                  "sample, NaN where it is not known; it may be left out."]  # fmt: skip
    return lines


def _space(config: ModelConfig) -> str | None:
    """Say where the axes of a volume point to and how large its voxels are."""
    if config.network.spatial_dims != 3:
        return None
    sides = " x ".join(f"{side:g}" for side in config.voxel_size_mm)
    return f"{config.orientation}+" + (f", voxels of {sides} mm" if sides else "")


def _facts(config: ModelConfig, rows: _Rows, recipe: Mapping[str, Any]) -> list[str]:
    hidden = ("cache_dir", "train", "validation", "root", "folder", "path")
    data = {k: v for k, v in recipe.get("data", {}).items() if k not in hidden}
    trained = config.training.get("steps") is not None
    facts = {
        "network": config.network.kind,
        "objective": config.objective if trained else None,
        "teacher": _named(config.teacher),
        "steps": config.training.get("steps"),
        "batch size": config.training.get("batch_size"),
        "seed": config.training.get("seed"),
        "data": ", ".join(f"{k} {v}" for k, v in data.items()),
        "image size": " x ".join(str(n) for n in config.training_size),
        "axes": _space(config),
        "channels": ", ".join(config.image_channels),
        "labels": ", ".join(config.labels) or (config.network.n_labels or None),
        "intensity": config.intensity,
        "range of the data": _range(config.value_range),
        "prediction": f"{config.prediction} on the path {config.path.kind}",
        "training time": f"{rows[-1]['seconds'] / 60.0:.0f} min" if rows else None,
        "imported from": config.training.get("imported_from"),
        "sha256 of the source": config.training.get("source_sha256"),
        "weights": config.weights_dtype + ", moving average of the last steps" * trained,
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    return lines + [f"- adapter: {_named(use)}, weight {use.weight:g}" for use in config.adapters]


def _range(ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{ends[0]:g} to {ends[1]:g}"


def _named(source: TeacherConfig | AdapterUse | None) -> str | None:
    if source is None:
        return None
    return source.name + (f", sha256 {source.sha256}" if source.sha256 else "")


def _run_facts(run: Mapping[str, Any]) -> list[str]:
    skipped = dict(run.get("skipped") or {})
    words = {"n_train": "training items", "n_validation": "validation items",
             "hardware": "hardware"}  # fmt: skip
    lines = [f"- {word}: {run[key]}" for key, word in words.items() if run.get(key) is not None]
    if "skipped" in run:
        reasons = Counter(str(reason) for reason in skipped.values())
        listed = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"- skipped files: {len(skipped)}" + (f" ({listed})" if listed else ""))
    return lines


def _levels(rows: _Rows) -> list[str]:
    last = next((row for row in reversed(rows) if "val_loss" in row), None)
    if last is None:
        return []
    levels = [(k[14:], v) for k, v in last.items() if k.startswith("val_loss_level")]
    table = [f"Validation loss at step {last['step']:.0f}, by noise level from low to high:", ""]
    table += ["| level | loss |", "|---|---|"]
    table += [f"| {name} | {loss:.4f} |" for name, loss in levels]
    return [*table, f"| mean | {last['val_loss']:.4f} |", ""]


def _loss_curve(rows: _Rows) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, style in (("train_loss", "-"), ("val_loss", "o-")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, ms=3, lw=1, label=key.replace("_", " "))
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
