"""Recipes: read, override, print and read again; every mistake gets one line."""

import itertools
import json

import pytest
import yaml

from medsci.errors import InvalidInputError, UsageError
from medsci.training import DistillRecipe, PriorRecipe, export_schema, load_recipe
from medsci.training.module import learning_rate_factor
from medsci.training.reading import to_yaml
from medsci.training.recipe.trainer import OptimiserConfig

GOOD = """
name: test
data: {kind: simulated_heads, n_heads: 2}
optimiser: {learning_rate: 1e-4}
trainer: {max_steps: 10}
"""


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return file

    return to_file


def test_numbers_in_exponent_form_are_numbers(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.optimiser.learning_rate == pytest.approx(1e-4)
    for text, value in {"2E-3": 2e-3, "1.e-2": 1e-2, ".5e-3": 5e-4, "3e+0": 3.0}.items():
        changed = load_recipe(write(GOOD), overrides=[f"optimiser.learning_rate={text}"])
        assert changed.optimiser.learning_rate == pytest.approx(value)


def test_overrides_apply_in_order_and_make_sections(write):
    overrides = ["path.kind=rectified", "trainer.max_steps=5", "trainer.max_steps=7",
                 "network.channels=[16, 32]", "network.res_blocks=[1, 1]"]  # fmt: skip
    recipe = load_recipe(write(GOOD), overrides=overrides)
    assert recipe.path.kind == "rectified"
    assert recipe.trainer.max_steps == 7
    assert recipe.network.channels == (16, 32)


def test_words_that_older_yaml_takes_for_booleans_stay_words(write):
    recipe = load_recipe(write(GOOD.replace("name: test", "name: on")))
    assert recipe.name == "on"


def test_the_printed_recipe_reads_back_as_itself(write):
    recipe = load_recipe(write(GOOD), overrides=["time_law.kind=logit_normal", "seed=3"])
    assert load_recipe(write(to_yaml(recipe))) == recipe
    assert yaml.safe_load(to_yaml(recipe))["time_law"]["axis"] == "angle"


MALFORMED = {
    "misspelt key": ("trainer: {max_step: 3}", "trainer.max_step: unknown key; did you mean max_s"),
    "misspelt top key": ("optimizer: {}", "optimizer: unknown key; did you mean optimiser?"),
    "misspelt key in a union": (
        "data: {kind: simulated_heads, nheads: 3}",
        "data.nheads: unknown key; did you mean n_heads?",
    ),
    "key far from any": ("path: {zzz: 1}", "path.kind: missing; choose from"),
    "foreign key of a chosen kind": (
        "path: {kind: rectified, qqqq: 1}",
        "path.qqqq: unknown key; known keys: kind",
    ),
    "unknown kind": ("data: {kind: simulated_head}", "did you mean simulated_heads?"),
    "kind missing": ("data: {n_heads: 3}", "data.kind: missing; choose from simulated_heads"),
    "word for a number": ("seed: many", "seed: input should be a valid integer"),
    "negative steps": ("trainer: {max_steps: -5}", "trainer.max_steps: input should be greater"),
    "infinite rate": ("optimiser: {learning_rate: .inf}", "optimiser.learning_rate: "),
    "not a number": ("sigma_data: .nan", "sigma_data: "),
    "wrong choice": ("prediction: noise", "prediction: input should be 'x0', 'eps', 'v'"),
    "mapping expected": ("trainer: 7", "trainer: "),
    "levels do not match": (
        "network: {channels: [32, 32], res_blocks: [1]}",
        "network: res_blocks has 1 entries and channels 2",
    ),
    "groups do not divide": (
        "network: {channels: [30, 32], res_blocks: [1, 1]}",
        "network: channels has 30, no multiple of norm_groups=16",
    ),
    "head channels do not divide": (
        "network: {channels: [32, 48], res_blocks: [1, 1]}",
        "attention over 48 channels",
    ),
    "channels disagree": (
        "network: {in_channels: 1, out_channels: 2}",
        "network.in_channels: the data have 2 channels, the network 1; set it to 2",
    ),
    "name with a slash": ("name: a/b", "name: "),
    "wrong type inside a list": (
        "data: {kind: simulated_heads, size: [64, wide]}",
        "data.size.1: ",
    ),
    "later format": ("format_version: 2", "format_version: input should be 1"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_recipe_gets_one_line_with_its_path(case, write):
    extra, expected = MALFORMED[case]
    content = yaml.safe_load(GOOD)
    content.update(yaml.safe_load(extra))
    file = write(yaml.safe_dump(content))
    with pytest.raises(InvalidInputError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(file))


@pytest.mark.parametrize(
    ("text", "words"),
    {
        "": "holds nothing", "- a\n- b": "holds list", "name: [": "no YAML at line",
        "just words": "holds str", "name: !!python/object:os.system x": "no YAML",
    }.items(),
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_refused(text, words, write):
    with pytest.raises(InvalidInputError, match=words) as caught:
        load_recipe(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_trainer_section_is_named(write):
    with pytest.raises(InvalidInputError, match="trainer: missing; add it"):
        load_recipe(write("name: test\ndata: {kind: simulated_heads}\n"))


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="no UTF-8"):
        load_recipe(binary)


@pytest.mark.parametrize("override", ["seed", "=3", "trainer..max_steps=3", "seed.deep=1"])
def test_a_malformed_override_is_a_usage_error(override, write):
    with pytest.raises(UsageError, match="override"):
        load_recipe(write("seed: 1\n" + GOOD), overrides=[override])


def test_an_override_of_an_unknown_key_names_the_right_one(write):
    with pytest.raises(InvalidInputError, match=r"trainer\.batchsize: .* mean batch_size\?"):
        load_recipe(write(GOOD), overrides=["trainer.batchsize=3"])


def test_the_schema_is_json_and_knows_every_section():
    schema = json.loads(json.dumps(export_schema()))
    for name, model in {"PriorRecipe": PriorRecipe, "DistillRecipe": DistillRecipe}.items():
        assert set(schema["$defs"][name]["properties"]) == set(model.model_fields)
        assert schema["$defs"][name]["additionalProperties"] is False


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    config = OptimiserConfig(warmup_steps=10, final_fraction=0.1)
    factors = [learning_rate_factor(config, step, 110) for step in range(111)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
