"""Malformed recipes and options: an exit code and one line that names the place.

Every case runs the real command in this process; none of them comes as far as the data. Malformed
data, models and checkpoints are in `test_malformed_inputs.py`.
"""

import pytest
import yaml
from contracts.malformed import (
    NETWORK,
    PRIOR,
    SIZE,
    arrays,
    distill,
    prior,
    train_here,
)

from medsci.cli.main import main

SIMULATED = {"kind": "simulated_heads", "size": SIZE}


@pytest.fixture
def folder(tmp_path):
    """Where the recipe is; there are no data."""
    return tmp_path


@pytest.fixture
def run(folder, capfd, monkeypatch):
    """Run `medsci train` where the data are; gives the exit code and what stood on stderr."""
    monkeypatch.chdir(folder)

    return train_here(folder, capfd)


HEAD = "name: tiny\ndata: {kind: arrays, files: good.npy}\n"
YAML = {
    "empty file": ("", ["holds nothing"]),
    "a list": ("- a\n- b\n", ["holds list"]),
    "a word": ("prior_2d", ["holds str"]),
    "several documents": (HEAD + "---\n" + HEAD, ["no YAML at line 3"]),
    "tabs": ("name: tiny\ndata:\n\tkind: arrays\n", ["no YAML at line 3", "\\t"]),
    "unclosed bracket": (HEAD + "network: {channels: [8, 32\n", ["no YAML at line"]),
    "unclosed quote": (HEAD + "init: 'x\n", ["no YAML at line"]),
    "wrong indentation": ("name: tiny\n  data: 3\n", ["no YAML at line 2"]),
    "a tag that runs code": ("name: !!python/object/apply:os.getcwd []\n", ["no YAML at line 1"]),
    "a tag that names a class": ("name: !!python/name:os.system\n", ["no YAML at line 1"]),
    "undefined alias": ("name: *who\n", ["undefined alias", "who"]),
    "an alias of itself": ("name: &me [*me]\n", ["alias"]),
    "duplicate key": (HEAD + "seed: 1\nseed: 2\n", ["line 4", "the key seed comes twice"]),
    "duplicate key further down": (
        HEAD + "trainer: {max_steps: 1,\n  max_steps: 2}\n",
        ["line 4", "max_steps comes twice"],
    ),
    "an impossible date": (HEAD + "seed: 2026-13-45\n", ["no YAML"]),
    "binary file": (b"\xff\xfe\x00\x01", ["no UTF-8 text"]),
    "control characters": ("name: \x01\n", ["no YAML"]),
}
KEYS = {
    "key at the top": (prior(optimizer={}), ["optimizer: unknown key; did you mean optimiser?"]),
    "key in a section": (prior(trainer={"batchsize": 2}), ["trainer.batchsize", "batch_size?"]),
    "key in a kind": (prior(data=arrays("good.npy", lable="x")), ["data.lable", "label?"]),
    "key in a network": (prior(network={"chanels": [8]}), ["network.chanels", "channels?"]),
    "key in a law": (
        prior(time_law={"kind": "uniform", "axes": "time"}),
        ["time_law.axes", "axis?"],
    ),
    "key in a student": (distill(student={"lora": {"ranks": 2}}), ["student.lora.ranks", "rank?"]),
    "key of another task": (
        prior(teacher="x"),
        ["teacher: unknown key of this task; it belongs to task: distill"],
    ),
    "key in an objective": (
        distill(objective={"kind": "reflow", "aneal_steps": 3}),
        ["objective.aneal_steps", "anneal_steps?"],
    ),
    "no trainer": (prior(trainer=None), ["trainer: missing"]),
    "no data": (prior(data=None), ["data: missing"]),
    "no name": (prior(name=None), ["name: missing"]),
    "no teacher": (distill(teacher=None), ["teacher: missing"]),
    "no steps": ({**PRIOR, "trainer": {"batch_size": 2}}, ["trainer.max_steps: missing"]),
    "data kind": (prior(data={"kind": "array"}), ["data.kind: 'array'", "did you mean arrays?"]),
    "data kind missing": ({**PRIOR, "data": {"files": "x"}}, ["data.kind: missing"]),
    "network kind": (prior(network={"kind": "unet2d"}), ["network.kind: 'unet2d'", "unet_2d?"]),
    "path kind": (prior(path={"kind": "vp_cosin"}), ["path.kind", "vp_cosine?"]),
    "objective kind": (distill(objective={"kind": "reflo"}), ["objective.kind", "reflow?"]),
    "coupling kind": (prior(coupling={"kind": "asignment"}), ["coupling.kind", "assignment?"]),
    "kind as a list": (prior(data={"kind": ["arrays"]}), ["data.kind"]),
    "task": (prior(task="distil"), ["task: 'distil' came; did you mean distill?"]),
    "task as a list": (prior(task=["prior"]), ["task: ['prior'] came"]),
}
VALUES = {
    "word for a number": (prior(seed="many"), ["seed: ", "'many' came"]),
    "fraction for a count": (prior(trainer={"max_steps": 2.5}), ["trainer.max_steps: ", "2.5"]),
    "truth for a count": (prior(trainer={"batch_size": "yes"}), ["trainer.batch_size: ", "'yes'"]),
    "negative seed": (prior(seed=-1), ["seed: ", "-1 came"]),
    "no steps at all": (prior(trainer={"max_steps": 0}), ["trainer.max_steps: ", "0 came"]),
    "infinite rate": (
        prior(optimiser={"learning_rate": float("inf")}),
        ["optimiser.learning_rate: "],
    ),
    "NaN": (prior(sigma_data=float("nan")), ["sigma_data: ", "nan came"]),
    "number in words": (
        prior(optimiser={"learning_rate": "1e-4 or so"}),
        ["optimiser.learning_rate: "],
    ),
    "average beyond 1": (prior(trainer={"ema_decay": 1.0}), ["trainer.ema_decay: ", "1.0 came"]),
    "probability": (prior(label_dropout=1.5), ["label_dropout: ", "1.5 came"]),
    "margin": (prior(time_law={"kind": "uniform", "margin": 0.5}), ["time_law.margin: "]),
    "choice": (prior(prediction="noise"), ["prediction: ", "'noise' came"]),
    "section as a number": (prior(trainer=7), ["trainer: ", "7 came"]),
    "list as a word": (prior(network={"channels": "wide"}), ["network.channels: ", "'wide'"]),
    "name of a path": (prior(name="../up"), ["name: ", "'../up' came"]),
    "neither number nor word": (
        prior(trainer={"devices": "many"}),
        ["trainer.devices: ", "integer", "or input should be 'auto' or 'all'", "'many' came"],
    ),
    "neither word nor list": (prior(data=arrays(3)), ["data.files: ", "3 came"]),
    "seed beyond 64 bits": (prior(seed=2**63), ["seed: "]),
    "price of nothing": (
        prior(coupling={"kind": "transport", "regularisation": 0}),
        ["coupling.regularisation: ", "0 came"],
    ),
    "word for a section": (prior(path="rectified"), ["path: a mapping of keys is needed"]),
    "later format": (prior(format_version=2), ["format_version: ", "2 came"]),
    "one rung": (distill(objective={"kind": "consistency", "rungs": 1}), ["objective.rungs: "]),
    "batch not divisible": (
        prior(trainer={"batch_size": 4, "accumulate": 3}),
        ["trainer.batch_size: 4", "multiple of 3"],
    ),
    "batch among devices": (
        prior(trainer={"batch_size": 3, "devices": 2}),
        ["trainer.batch_size: 3", "2 processes"],
    ),
}
CONFLICTS = {
    "channels": (
        prior(data=SIMULATED, network={"in_channels": 1}),
        ["network.in_channels: ", "set it to 2"],
    ),
    "outputs": (
        prior(data=SIMULATED, network={"out_channels": 3}),
        ["network.out_channels: ", "set it to 2"],
    ),
    "rank": (
        prior(data=SIMULATED, network={"kind": "unet_3d", "in_channels": 2, "out_channels": 2}),
        ["network.kind: unet_3d is for 3 dimensions, the data have 2"],
    ),
    "labels unknown": (prior(data=arrays("labels.h5", label="site")), ["network.n_labels: "]),
    "labels unfed": (prior(network={"n_labels": 3}), ["data.label: "]),
    "dropped labels": (prior(label_dropout=0.1), ["label_dropout: ", "network.n_labels"]),
    "rows without a table": (prior(time_code="row"), ["time_code: row", "path vp_cosine"]),
    "levels": (prior(network={"res_blocks": [1]}), ["network: res_blocks has 1"]),
    "groups": (prior(network={"norm_groups": 5}), ["network: channels has 8"]),
    "two ways to say where": (
        prior(data=arrays("good.npy", train="good.npy")),
        ["data.files: came with data.train"],
    ),
    "half of a split": (
        prior(data={"kind": "arrays", "train": "good.npy"}),
        ["data.validation: missing"],
    ),
    "nowhere": (prior(data={"kind": "arrays"}), ["data.files: missing"]),
    "another network": (distill(student={"network": NETWORK}), ["student.start: "]),
    "adapters at random": (distill(student={"start": "random", "lora": {}}), ["student.lora: "]),
    "pairs needed": (distill(data=arrays("good.npy")), ["data.kind: ", "reflow needs pairs"]),
    "card": (
        prior(data=SIMULATED, card={"image_channels": ["t1"]}),
        ["card.image_channels: 1 channels"],
    ),
}
INVALID = {**YAML, **KEYS, **VALUES, **CONFLICTS}
OPTIONS = {
    "override without a value": (["--set", "seed"], 2, ["--set key.key=value"]),
    "override without a key": (["--set", "=3"], 2, ["'=3'"]),
    "override with a gap": (["--set", "trainer..max_steps=3"], 2, ["trainer..max_steps"]),
    "override below a number": (["--set", "name.deep=1"], 2, ["'name' holds no keys"]),
    "override of no YAML": (["--set", "network.channels=[8,"], 4, ["override", "no YAML"]),
    "override of an unknown key": (["--set", "trainer.step=3"], 4, ["trainer.step: unknown key"]),
    "override of a wrong type": (["--set", "trainer.max_steps=ten"], 4, ["trainer.max_steps: "]),
    "override by nothing": (["--set", "trainer.max_steps="], 4, ["trainer.max_steps: "]),
    "override of a mapping twice": (["--set", "network={a: 1, a: 2}"], 4, ["a comes twice"]),
    "override without end": (
        ["--set", "network=" + 999 * "["],
        4,
        ["override 'network=[[", "no YAML"],
    ),
    "no such option": (["--stop"], 2, ["--stop"]),
    "device unknown": (["--device", "gpu"], 2, ["'gpu'", "cuda:N"]),
    "device absent": (["--device", "cuda:99"], 2, ["cuda:99"]),
    "quiet and verbose": (["-q", "-v"], 2, ["contradict"]),
}


def the_line(err):
    """Return the only line of an error; warnings of files left out may stand before it."""
    assert "Traceback" not in err
    *before, line = err.splitlines()
    assert all(other.startswith("warning: ") for other in before)
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("case", INVALID)
def test_a_malformed_recipe_or_data_set_gets_one_line(case, run, folder):
    content, words = INVALID[case]
    code, err = run(content)
    line = the_line(err)
    for word in words:
        assert word in line
    assert code == 4
    assert len(line) < 400 + len(str(folder))
    assert not (folder / "out").exists()


@pytest.mark.parametrize("case", OPTIONS)
def test_a_malformed_option_gets_one_line(case, run):
    options, expected, words = OPTIONS[case]
    code, err = run(PRIOR, *options)
    line = the_line(err)
    for word in words:
        assert word in line
    assert code == expected


def test_a_recipe_that_is_not_there_names_the_packaged_ones(run, capfd):
    assert main(["train", "prior_3"]) == 4
    assert "prior_2d" in the_line(capfd.readouterr().err)
    assert main(["train", "nowhere/recipe.yaml"]) == 4
    assert "No such file" in the_line(capfd.readouterr().err)


def test_control_a_key_that_replaces_a_merged_one_is_no_duplicate(run):
    network = "{<<: {norm_groups: 4}, norm_groups: 8, channels: [8, 32], res_blocks: [1, 1]}"
    code, err = run(f"{HEAD}network: {network}\ntrainer: {{max_steps: 2}}\n", "--print-config")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("rate", ["1e-4", "'1e-4'", "0.0001", "1.E-4"])
def test_control_a_rate_in_any_spelling_is_a_number(rate, run):
    text = yaml.safe_dump(PRIOR) + f"optimiser: {{learning_rate: {rate}}}\n"
    code, err = run(text, "--print-config")
    assert (code, err) == (0, "")


def test_there_are_enough_cases():
    assert len(INVALID) + len(OPTIONS) >= 60
