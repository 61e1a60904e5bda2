# %% [markdown]
# # A tour of training
#
# First a packaged recipe, changed and run from here: a small prior of slices of a head. Then what
# reflow does, where it can be seen: a flow in the plane is trained, makes its own pairs of noise
# and samples, and is trained again on these. Runs in under a minute on one core; `OUT` names a
# folder for the picture.

# %%
import copy
import os
import tempfile
from pathlib import Path as FilePath

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from medsci.core import Denoiser, Multistep, Path, Rng, Trace, grid, sample
from medsci.core.check import energy_distance, flow_velocity, straightness
from medsci.core.learn import Objective, OneStep, Regression, UShape, reflow_pairs
from medsci.models import load_denoiser
from medsci.nets import Mlp, MlpConfig
from medsci.pipelines.train import packaged_recipe
from medsci.training import load_recipe, train

torch.manual_seed(0)

# %% [markdown]
# ## A recipe, changed and run
# What `--set` does on the command line is a list here. Everything not named stays as packaged; a
# wrong name is answered with the nearest right one. This run is far too short to be of use, and one
# head stands on both sides of the split, which `files: FOLDER` would part by subject.

# %%
head = FilePath(__file__).parents[2] / "sample_data" / "colin27_t1.nii.gz"
recipe = load_recipe(
    packaged_recipe("heads_64"),
    overrides=[
        f"data={{kind: nifti_slices, train: {head}, validation: {head}}}",
        "data.size=[64, 64]",
        "data.voxel_size_mm=[3.5, 3.5, 3.5]",
        "network.channels=[16, 32]",
        "network.res_blocks=[1, 1]",
        "optimiser.warmup_steps=10",
        "trainer.max_steps=40",
        "trainer.batch_size=8",
        "trainer.ema_decay=0.9",
        "trainer.log_every_steps=10",
        "trainer.val_every_steps=10",
        "trainer.val_samples=16",
        "trainer.tensorboard=false",
        "samples.every_steps=null",
    ],
)
with tempfile.TemporaryDirectory() as folder:
    result = train(recipe, output=FilePath(folder) / "heads", device="cpu")
    prior = load_denoiser(result.model)  # a model folder, as `medsci models list` would show

rows = [row for row in result.metrics if "val_loss" in row]
heads = sample(prior, (4, 2, 64, 64), steps=10).norm(dim=1)
print("validation loss:", {int(row["step"]): round(row["val_loss"], 3) for row in rows})
assert rows[-1]["val_loss"] < rows[0]["val_loss"]

# %% [markdown]
# ## A flow in the plane
# Three modes. The loop is the one that `train` runs, in four lines: an objective takes
# the denoiser, a batch and the random streams of its samples.

# %%
modes = torch.tensor([[0.0, 1.8], [-1.6, -0.9], [1.6, -0.9]])
data = modes[torch.randint(3, (4096,))] + 0.15 * torch.randn(4096, 2)


def fit(
    denoiser: Denoiser,
    objective: Objective,
    x0: torch.Tensor,
    *,
    steps: int,
    noise: torch.Tensor | None = None,
) -> Denoiser:
    """Train in place, with a learning rate that falls to zero in a straight line."""
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=4e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for step in range(steps):
        ids = [(256 * step + i) % len(x0) for i in range(256)]
        given = None if noise is None else noise[ids]
        loss, _ = objective(denoiser, x0[ids], rng=Rng(0, ids), step=step, noise=given)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return denoiser.eval()


path = Path.rectified()
base = Denoiser(Mlp(MlpConfig(width=64, n_layers=3)), path=path, pred="flow", sigma_data=1.3)
fit(base, Regression(), data, steps=1000)

# %% [markdown]
# ## Its own pairs, and training on them
# `reflow_pairs` keeps the noise beside the sample that the flow made of it. The student starts from
# the teacher's weights; the time law of rf++ puts its samples where the errors of a reflow are.
# `OneStep` then spends everything on the one step. With shuffled pairs nothing is gained: that
# student is the control.

# %%
with torch.no_grad():
    x0, noise = reflow_pairs(base, (4096, 2), rng=Rng(1, range(4096)), steps=20)
reflowed = fit(copy.deepcopy(base), Regression(UShape(4.0)), x0, noise=noise, steps=500)
one_step = fit(copy.deepcopy(reflowed), OneStep(), x0, noise=noise, steps=200)
mixed = noise[torch.randperm(len(noise))]
control = fit(copy.deepcopy(base), Regression(UShape(4.0)), x0, noise=mixed, steps=200)

# %% [markdown]
# ## What straightening does
# All start from noise they have not seen. Straightness is zero where every path is its chord,
# walked at constant speed. The energy distance compares one-step samples with data; its estimate
# has no bias, so for equal laws it has either sign. It is blind to the few samples between the
# modes that the picture shows: look at samples, whatever a number says.

# %%
students = {"flow": base, "reflowed": reflowed, "one step": one_step, "shuffled pairs": control}
fresh = Rng(2, range(1000))
bend, distance, ends, walks = {}, {}, {}, {}
with torch.no_grad():
    for name, student in students.items():
        made, start = reflow_pairs(student, (1000, 2), rng=fresh, steps=30)
        bend[name] = float(straightness(flow_velocity(student, path), made, start))
        one = {"solver": Multistep("eps", order=1), "grid": grid.uniform(1)}
        ends[name] = sample(student, (1000, 2), seed=3, **one)
        distance[name] = float(energy_distance(ends[name], data[:1000]))
        trace = Trace("x", at="before")
        last = sample(
            student, (60, 2), seed=4, solver=Multistep(), grid=grid.uniform(40), hooks=[trace]
        )
        walks[name] = torch.stack([*trace.values, last])
    many = float(energy_distance(sample(base, (1000, 2), seed=3, steps=20), data[:1000]))
    floor = float(energy_distance(data[1000:2000], data[:1000]))
for name in students:
    print(f"{name:15} straightness {bend[name]:.4f}, one step {distance[name]:.4f}")
print(f"the flow in 20 steps {many:.4f}; data against data {floor:.4f}")
assert bend["reflowed"] < 0.3 * bend["flow"]
assert distance["reflowed"] < 0.3 * distance["flow"]
assert distance["shuffled pairs"] > 0.5 * distance["flow"]

# %%
figure, panels = plt.subplots(2, 3, figsize=(10.5, 7), layout="constrained")
panels[0, 0].plot([r["step"] for r in rows], [r["val_loss"] for r in rows], "o-")
panels[0, 0].set(title="heads: validation loss", xlabel="step", yscale="log")
mosaic = torch.cat([torch.cat([*pair], 1) for pair in heads.flip(1).split(2)])
panels[1, 0].imshow(mosaic.numpy(), cmap="gray")
panels[1, 0].set(title=f"after {result.steps} steps: hardly heads", xticks=[], yticks=[])
for column, name in enumerate(("flow", "reflowed"), start=1):
    above, below = panels[:, column]
    above.plot(*walks[name].unbind(-1), lw=0.6, color="tab:blue")
    above.scatter(*walks[name][-1].T, s=6, color="black", zorder=3)
    above.set_title(f"{name}: straightness {bend[name]:.3f}")
    below.scatter(*data[:1000].T, s=2, color="lightgrey")
    below.scatter(*ends[name].T, s=2)
    below.set_title(f"one step: distance {distance[name]:.3f}")
    for panel in (above, below):
        panel.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal")
if "OUT" in os.environ:
    figure.savefig(FilePath(os.environ["OUT"]) / "training_tour.png", dpi=60)
