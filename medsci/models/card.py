"""Model cards: what a model has seen, how it was trained, what it is for."""

__all__ = ["write_card"]

import io
from collections.abc import Mapping, Sequence
from typing import Any

from medsci.models.config import ModelConfig

_Rows = Sequence[Mapping[str, float]]


def write_card(
    config: ModelConfig, *, rows: _Rows, recipe: Mapping[str, Any], card: Mapping[str, Any]
) -> tuple[str, dict[str, bytes]]:
    """Return the text of `MODEL_CARD.md` and the files it refers to.

    Args:
        config: the stored configuration.
        rows: the log of the run, with `step`, `train_loss`, `val_loss` and losses per level.
        recipe: the resolved recipe as plain data.
        card: title, intended use and limits in words.
    """
    lines = [f"# {card.get('title') or config.name}", "", config.data or "(no data described)", ""]
    for key, heading in (("intended_use", "Intended use"), ("limits", "Limits")):
        if card.get(key):
            lines += [f"## {heading}", "", str(card[key]), ""]
    lines += ["## How to load", "", "```python", "import medsci",
              f'denoiser = medsci.models.load_denoiser("{config.name}")', "```", ""]  # fmt: skip
    lines += ["## Training", "", *_facts(config, rows, recipe), ""]
    attachments = {}
    if any("train_loss" in row for row in rows):
        attachments["loss.png"] = _loss_curve(rows)
        lines += ["![Loss over steps](loss.png)", ""]
    lines += _levels(rows)
    lines += ["## Licence", "", config.licence, ""]
    return "\n".join(lines), attachments


def _facts(config: ModelConfig, rows: _Rows, recipe: Mapping[str, Any]) -> list[str]:
    data = {
        k: v for k, v in recipe["data"].items() if k not in ("cache_dir", "train", "validation")
    }
    facts = {
        "steps": config.training.get("steps"),
        "batch size": config.training.get("batch_size"),
        "seed": config.training.get("seed"),
        "data": ", ".join(f"{k} {v}" for k, v in data.items()),
        "image size": " x ".join(str(n) for n in config.training_size),
        "channels": ", ".join(config.image_channels),
        "intensity": config.intensity,
        "prediction": f"{config.prediction} on the path {config.path.kind}",
        "training time": f"{rows[-1]['seconds'] / 60.0:.0f} min" if rows else None,
        "weights": f"{config.weights_dtype}, moving average of the last steps",
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]


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
