"""Recipes to spoil, and the command that must complain of them in one line."""

__all__ = [
    "DISTILL", "NETWORK", "PRIOR", "SIZE", "arrays", "changed", "distill", "of_site", "prior",
    "slices", "train_here",
]  # fmt: skip

import yaml

from medsci.cli.main import main

SIZE = [16, 16]
NETWORK = {"channels": [8, 32], "res_blocks": [1, 1], "norm_groups": 8}
TRAINER = {"max_steps": 2, "batch_size": 4, "threads": 1, "tensorboard": False}
PRIOR = {"name": "tiny", "data": {"kind": "arrays", "files": "good.npy"},
         "network": NETWORK, "trainer": TRAINER}  # fmt: skip
DISTILL = {
    "task": "distill", "name": "tiny", "teacher": "teacher", "trainer": TRAINER,
    "data": {"kind": "pairs", "file": "pairs.h5"}, "objective": {"kind": "reflow"},
}  # fmt: skip


def train_here(folder, capture):
    """Return a function that runs `medsci train`; it gives the exit code and what was on stderr."""

    def call(content, *options):
        file = folder / "recipe.yaml"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        capture.readouterr()
        words = ["train", str(file), "--device", "cpu", "-o", str(folder / "out"), *options]
        code = main(words)
        return code, capture.readouterr().err

    return call


def changed(recipe, **sections):
    """Return a recipe with sections replaced; a dict is merged into the section."""
    out = {**recipe}
    for name, value in sections.items():
        merges = isinstance(value, dict) and isinstance(out.get(name), dict)
        out[name] = {**out[name], **value} if merges and "kind" not in value else value
    return {key: value for key, value in out.items() if value is not None}


def prior(**sections):
    return changed(PRIOR, **sections)


def distill(**sections):
    return changed(DISTILL, **sections)


def arrays(files, **more):
    return {"kind": "arrays", "files": files, **more}


def slices(files, **more):
    return {"kind": "nifti_slices", "files": files, "size": SIZE, **more}


def of_site(file, n_labels):
    return prior(data=arrays(file, label="site"), network={**NETWORK, "n_labels": n_labels})
