"""The guide to objectives names tests that exist and recipes that can be read."""

import re
from pathlib import Path

import pytest
import yaml

from medsci.errors import InvalidInputError
from medsci.pipelines.train import packaged_recipe
from medsci.training.reading import parse_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training_objectives.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n# (\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def merged(name, block):
    base = yaml.safe_load(packaged_recipe(name).read_text(encoding="utf-8"))
    return base | yaml.safe_load(block)


@pytest.mark.parametrize(
    ("name", "block"), BLOCKS, ids=[f"{i}-{n}" for i, (n, _) in enumerate(BLOCKS)]
)
def test_every_block_makes_a_recipe_with_what_it_says(name, block):
    recipe = parse_recipe(merged(name, block)).model_dump(mode="json")
    for key, value in yaml.safe_load(block).items():
        assert holds(recipe[key], value), key


def holds(found, said):
    """Tell whether all that a block says is in the recipe; it may say less."""
    if isinstance(said, dict):
        return all(holds(found[key], value) for key, value in said.items())
    return found == said


def test_control_a_block_with_a_wrong_word_is_refused():
    with pytest.raises(InvalidInputError, match="objective"):
        parse_recipe(merged("phased", "objective: {kind: fased}"))


def test_every_block_is_found():
    assert len(BLOCKS) == PAGE.count("```yaml") > 10


def test_every_test_that_is_named_exists():
    said = set(re.findall(r"`(test_\w+)`", PAGE))
    there = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), flags=re.M))
    assert len(said) > 30
    assert said <= there, sorted(said - there)


def test_files_that_are_linked_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
