# %% [markdown]
# # Bring your own data, and your own objective
#
# What training asks of data is two names, `n_items` and `draw`; of an objective, one call. Lists of
# files with conditions, BIDS trees and patches are there already. Runs in seconds on one core;
# `OUT` names a folder for the picture.

# %%
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path as FilePath

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from medsci.core import Denoiser, Path, Rng, sample
from medsci.core.learn import Objective, Regression, Uniform
from medsci.data import Bids, NiftiPatches, NiftiSlices, PatchLaw, Source, list_cases
from medsci.nets import UNet2d, UNet2dConfig
from medsci.training.stream import SampleStream

torch.manual_seed(0)
head = FilePath(__file__).parents[2] / "sample_data" / "colin27_t1.nii.gz"


# %% [markdown]
# ## A source of one's own
# `draw` must depend on `(item, seed)` and on nothing else: that is what makes a resumed run equal
# an uninterrupted one. It returns `x0`, channels first, or a dictionary with conditions beside it.


# %%
class Discs:
    """Discs of random size at random places, and how large they are."""

    n_items = 1000

    def draw(self, item: int, seed: int) -> dict[str, Tensor]:
        """Return one disc of radius 3 to 5 in 16 x 16 pixels."""
        draw = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        row, column = 6.0 + 3.0 * draw[:2]
        at = torch.arange(16.0)
        distance = ((at[:, None] - row) ** 2 + (at - column) ** 2).sqrt()
        radius = 3.0 + 2.0 * draw[2]
        return {"x0": torch.sigmoid(2.0 * (radius - distance))[None] - 0.5, "radius": radius}


discs = Discs()
assert isinstance(discs, Source)
assert torch.equal(discs.draw(3, 7)["x0"], discs.draw(3, 7)["x0"])

# %% [markdown]
# `SampleStream` numbers the samples of a whole run: every epoch sees every item once, in an order
# that follows from the seed, and sample 1234 is the same whoever asks for it.

# %%
stream = SampleStream(discs, seed=0)
assert sorted(stream.item(number) for number in range(1000)) == list(range(1000))
assert torch.equal(stream[1234]["x0"], SampleStream(Discs(), seed=0)[1234]["x0"])

# %% [markdown]
# ## A list of files with conditions, a BIDS tree, patches
# In a recipe these are `data: {kind: nifti_slices, files: list.csv}` and so on. A column of words
# becomes a label, a column of numbers a quantity; the split keeps a subject on one side.

# %%
with tempfile.TemporaryDirectory() as folder:
    root = FilePath(folder)
    for subject in ("01", "02", "03"):
        place = root / f"sub-{subject}" / "anat"
        place.mkdir(parents=True)
        shutil.copy(head, place / f"sub-{subject}_T1w.nii.gz")
    names = [f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz" for subject in ("01", "02", "03")]
    lines = ["image,subject,age,scanner", f"{names[0]},01,31.5,north", f"{names[1]},02,64,south"]
    (root / "list.csv").write_text("\n".join(lines) + "\n")

    listed = list_cases(root / "list.csv")
    print("from the list:", [dict(case.conditions) for case in listed], dict(listed.vocabulary))
    tree = list_cases(
        root, bids=Bids("T1w", datatype="anat"), split="train", validation_fraction=0.34
    )
    print("from the tree, for training:", tree.subjects)
    slices = NiftiSlices(
        root / "list.csv", size=(64, 64), voxel_size_mm=(4.0, 4.0, 4.0), channels="magnitude"
    )
    patches = NiftiPatches([head], size=(32, 32, 32), law=PatchLaw(foreground=0.9, per_volume=50))
    one_slice = slices.draw(slices.n_items // 4, seed=1)
    patch = patches.draw(0, seed=1)
assert len(listed) == 2
assert len(tree.subjects) == 2
assert float(one_slice["age"]) == 31.5
assert patch["x0"].shape == (1, 32, 32, 32) if isinstance(patch, dict) else patch.ndim == 4

# %% [markdown]
# ## An objective of one's own
# A frozen dataclass with one call. Here the estimates of two noisy versions of a sample are also
# asked to agree, which is paid for in accuracy. All randomness comes from `rng`, by sample and
# step, so that a batch that is split over processes draws the same numbers. `medsci train` knows
# the objectives of its recipes only; one's own is trained by a loop.


# %%
@dataclass(frozen=True)
class Agreement:
    """Squared error, and `weight` times the squared difference of two estimates of one sample."""

    weight: float
    main: Regression

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        rng: Rng,
        step: int,
        noise: Tensor | None = None,
        cond: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and what to log about each sample."""
        loss, seen = self.main(denoiser, x0, rng=rng, step=step, noise=noise, cond=cond)
        states = [
            denoiser.path.perturb(x0, seen["t"], rng.normal(x0.shape, step=step, tag=tag))
            for tag in (1, 2)
        ]
        one, other = (denoiser(x_t, seen["t"], **(cond or {})) for x_t in states)
        apart = (one - other).square().flatten(1).mean(1)
        losses = seen["loss"] + self.weight * apart.detach()
        return loss + self.weight * apart.mean(), {**seen, "loss": losses}


regression = Regression(Uniform(sigma_data=0.4))
agreement = Agreement(5.0, regression)
assert isinstance(agreement, Objective)


def fit(objective: Objective, *, steps: int = 200, batch: int = 8) -> tuple[Denoiser, list[float]]:
    """Train a small network and return it with its losses."""
    torch.manual_seed(0)
    config = UNet2dConfig(
        in_channels=1, out_channels=1, channels=(16, 32), res_blocks=(1, 1), norm_groups=8
    )
    denoiser = Denoiser(UNet2d(config), path=Path.vp_cosine(), pred="edm", sigma_data=0.4)
    optimiser, losses = torch.optim.Adam(denoiser.parameters(), lr=2e-3), []
    for step in range(steps):
        numbers = range(batch * step, batch * (step + 1))
        x0 = torch.stack([stream[number]["x0"] for number in numbers])
        loss, seen = objective(denoiser, x0, rng=Rng(0, numbers), step=step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(seen["loss"].mean()))
    return denoiser.eval(), losses


def disagreement(denoiser: Denoiser) -> float:
    """Return the root mean square difference of two estimates of one sample, on fresh samples."""
    x0 = torch.stack([stream[number]["x0"] for number in range(10_000, 10_064)])
    rng = Rng(1, range(64))
    with torch.no_grad():
        one, other = (
            denoiser(denoiser.path.perturb(x0, 0.6, rng.normal(x0.shape, step=0, tag=tag)), 0.6)
            for tag in (1, 2)
        )
    return float((one - other).square().mean().sqrt())


plain, _ = fit(regression)
agreeing, losses = fit(agreement)
print(f"two estimates differ by {disagreement(plain):.3f} and {disagreement(agreeing):.3f}")
assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
assert disagreement(agreeing) < disagreement(plain)

# %%
drawn = sample(agreeing, (4, 1, 16, 16), steps=10, seed=0)[:, 0]
given = torch.stack([stream[number]["x0"][0] for number in range(4)])
figure, panels = plt.subplots(1, 5, figsize=(12, 2.8), layout="constrained")
middle = (patch["x0"] if isinstance(patch, dict) else patch)[0, :, :, 16]
pictures = {
    "a slice, age 31.5": one_slice["x0"][0].flip(0),
    "a patch, its middle": middle.T.flip(0),
    "discs": torch.cat(list(given), 1),
    "discs, drawn": torch.cat(list(drawn), 1),
}
for panel, (title, picture) in zip(panels, pictures.items(), strict=False):
    panel.imshow(picture.numpy(), cmap="gray")
    panel.set(title=title, xticks=[], yticks=[])
panels[4].plot(losses)
panels[4].set(title="loss", xlabel="step", yscale="log")
if "OUT" in os.environ:
    figure.savefig(FilePath(os.environ["OUT"]) / "own_training_data.png", dpi=80)
