"""How good the volumes of a 3D generator are, beside simulated heads it has not seen.

    python bench/brain_generation.py                       brain-t1-small, 32 volumes
    python bench/brain_generation.py --control             an untrained network, which must fail
    python bench/brain_generation.py --mosaic docs/images/brain_generated.png

Real: heads of the validation split of the simulator, drawn anew; training: of the train split.
Three tables: distances of the sets (each beside real against real), volumes of regions, and
conditions: the volume of the brain and the share of fluid of every real head are asked for, and
compared with what the generated tissue fractions sum to, as correlation and mean error; with the
conditions shuffled as control. The last line is `RESULT {json}`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from medsci.brain import (
    EvaluateSettings,
    Frame,
    GenerateSettings,
    Sample,
    evaluate,
    generate,
    label_map,
    regions,
)
from medsci.brain.conditions import population_rows
from medsci.data import SimulatedHeadVolumes
from medsci.models import load_denoiser, untrained_like
from medsci.models.store import find_model, read_config

TISSUES = ("fluid", "grey", "white")
ASKED = ("brain_ml", "fluid_fraction")


class Head(NamedTuple):
    """One volume in [0, 1] with its tissue fractions."""

    name: str
    image: np.ndarray
    fractions: np.ndarray

    def sample(self, frame: Frame) -> Sample:
        """Wrap it with the label map of its tissues, for `evaluate`."""
        labels = frame.volume(label_map(self.fractions))
        sample = Sample.of(frame.volume(self.image), name=self.name, labels=labels)
        return replace(sample, label_names=dict(enumerate(TISSUES, start=1)))


def simulated(frame: Frame, *, split: str, n: int, cache: Path | None) -> list[Head]:
    """Draw heads of one split of the simulator."""
    source = SimulatedHeadVolumes(
        n_heads=64 if split == "train" else 8,
        size=frame.shape,
        voxel_mm=float(frame.voxel_mm[0]),
        split=split,
        cache_dir=cache,
    )
    heads = []
    for k in range(n):
        x0 = 0.5 + 0.5 * source.draw(k % source.n_items, 90_000 + k)["x0"].numpy()
        heads.append(Head(f"{split}-{k:03d}", x0[0], x0[1:]))
    return heads


class Model:
    """A stored generator, or an untrained network of its shape."""

    def __init__(self, name: str, *, steps: int | None, control: bool, unasked: str) -> None:
        trained = load_denoiser(name)
        self.config = read_config(find_model(name))
        self.denoiser = untrained_like(trained) if control else trained
        self.frame, self.steps, self.unasked = Frame.of(self.config), steps, unasked

    def heads(self, n: int, *, seed: int, rows: Any = None, guidance: float = 1.0) -> list[Head]:
        """Draw n volumes; what is not asked for comes from the training population."""
        covariates, numbers = self.config.covariates, range(1, n + 1)
        if rows is None:
            rows = np.full((n, len(covariates)), np.nan)
        if self.unasked == "population":
            rows = population_rows(covariates, rows, seed=seed, numbers=numbers)
        drawn = generate(
            self.denoiser,
            self.config,
            numbers=numbers,
            settings=GenerateSettings(seed=seed, n_steps=self.steps, guidance=guidance),
            rows=rows,
        )
        return [Head(f"made-{one.number:03d}", one.image, one.fractions) for one in drawn]


def conditions(model: Model, real: list[Head], *, guidance: float) -> dict[str, float]:
    """Ask for the brain volume and fluid share of real heads; return how well they are met."""
    voxel_ml = float(np.prod(model.frame.voxel_mm)) / 1000.0
    names = [covariate.name for covariate in model.config.covariates]
    told = [regions(head.fractions, TISSUES, voxel_ml=voxel_ml) for head in real]
    rows = np.full((len(real), len(names)), np.nan)
    for name in ASKED:
        rows[:, names.index(name)] = [one[name] for one in told]
    made = model.heads(len(real), seed=1, rows=rows, guidance=guidance)
    got = [regions(head.fractions, TISSUES, voxel_ml=voxel_ml) for head in made]
    found = {}
    for name in ASKED:
        asked, met = (np.array([one[name] for one in some]) for some in (told, got))
        found[f"{name} correlation"] = float(np.corrcoef(asked, met)[0, 1])
        found[f"{name} correlation, shuffled"] = float(np.corrcoef(np.roll(asked, 5), met)[0, 1])
        found[f"{name} mean error"] = float((met - asked).mean())
        found[f"{name} spread asked"] = float(asked.std())
    return found


def mosaic(volumes: list[np.ndarray], path: Path, *, n_columns: int = 2) -> None:
    """Draw three planes of every volume, sagittal, coronal, axial: generated left, real right."""
    from PIL import Image

    tiles = []
    for volume in volumes:
        i, j, k = (n // 2 for n in volume.shape)
        planes = [volume[i], volume[:, j], volume[:, :, k + 2]]
        height = max(plane.shape[1] for plane in planes)
        up = [np.flipud(plane.T) for plane in planes]
        padded = [np.pad(plane, ((height - len(plane), 0), (0, 0))) for plane in up]
        tiles.append(np.concatenate(padded, axis=1))
    rows = [
        np.concatenate(tiles[start : start + n_columns], axis=1)
        for start in range(0, len(tiles), n_columns)
    ]
    grey = np.clip(np.concatenate(rows), 0.0, 0.85) / 0.85
    picture = Image.fromarray(np.uint8(np.round(255.0 * grey)))
    picture = picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.BILINEAR)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def tables(sets: list[list[Head]], frame: Frame) -> dict[str, Any]:
    """Evaluate real, generated and training heads; print, and return the figures."""
    real, made, train = ([head.sample(frame) for head in heads] for heads in sets)
    found = evaluate(real, made, train=train, settings=EvaluateSettings(n_deals=499))
    figures: dict[str, Any] = {}
    print("| measure | generated | real against real (mean, range) |\n|---|---|---|")
    for one in found.distances:
        name, base = one.title, one.baseline
        figures[one.key] = [one.matched.mean, base.mean, base.low, base.high]
        print(
            f"| {name} | {one.matched.mean:.3g} | {base.mean:.3g} ({base.low:.3g} to "
            f"{base.high:.3g}) |"
        )
    same, near = found.diversity, found.memorisation
    figures["ms_ssim"] = [same.generated, same.real]
    figures["neighbours"] = [near.ratio.matched.mean, near.n_copies]
    print(f"| MS-SSIM of pairs | {same.generated:.3f} | {same.real:.3f} |")
    ratio = near.ratio.matched.mean
    print(f"| nearest training head, ratio | {ratio:.2f} | 1 (copies: {near.n_copies}) |")
    print("\n| region | real ml | generated ml | W1 / sd | KS p (Holm) |\n|---|---|---|---|---|")
    for region in found.regions:
        real_ml, made_ml = np.array(region.real_ml), np.array(region.generated_ml)
        figures[f"region {region.name}"] = [
            float(real_ml.mean()), float(real_ml.std()), float(made_ml.mean()),
            float(made_ml.std()), region.distance.matched.mean, region.ks_p_holm,
        ]  # fmt: skip
        print(
            f"| {region.name} | {real_ml.mean():.0f} ± {real_ml.std():.0f} | {made_ml.mean():.0f} "
            f"± {made_ml.std():.0f} | {region.distance.matched.mean:.2f} | {region.ks_p_holm:.3f} |"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="brain-t1-small")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--cache", type=Path, default=None, help="pool of simulated heads")
    parser.add_argument("--unasked", choices=("population", "unknown"), default="population")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--mosaic", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    model = Model(
        options.model, steps=options.steps, control=options.control, unasked=options.unasked
    )
    real = simulated(model.frame, split="validation", n=options.n, cache=options.cache)
    train = simulated(model.frame, split="train", n=2 * options.n, cache=options.cache)
    made = model.heads(options.n, seed=0)
    if options.mosaic is not None:
        pairs = zip(made[:3], real[:3], strict=True)
        mosaic([head.image for pair in pairs for head in pair], options.mosaic)
    figures = tables([real, made, train], model.frame)
    figures["conditions"] = conditions(model, real, guidance=options.guidance)
    for name, value in figures["conditions"].items():
        print(f"{name:44s} {value:.3f}")
    print("RESULT " + json.dumps(figures))


if __name__ == "__main__":
    main()
