"""Files of settings: what is none is refused in one line that names the file."""

import pytest

from medsci.errors import InvalidInputError
from medsci.inverse.methods import options_of, settings_of
from medsci.pipelines.tuned_file import read_tuned, write_tuned


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no file of settings"),
        ("- 1", "no file of settings"),
        ("a: [1", "not YAML"),
        ("solver: red-diff\noptions: {}", "format_version is None"),
        ("format_version: 2\nsolver: red-diff\noptions: {}", "format_version is 2"),
        ("format_version: 1\noptions: {}", "solver=None"),
        ("format_version: 1\nsolver: red-diff", "options=None"),
        ("format_version: 1\nsolver: red-dif\noptions: {}", "did you mean red-diff"),
        ("format_version: 1\nsolver: pnp\noptions: {weigth: 1}", "did you mean weight"),
        ("format_version: 1\nsolver: pnp\noptions: {weight: -1}", "positive"),
        ("format_version: 1\nsolver: pnp\noptions: {weight: [1]}", "give a number or a word"),
        ("format_version: 1\nsolver: pnp\ndomain: mri\noptions: {}", "for mri, and this is ct"),
    ],
)
def test_files_that_are_none(tmp_path, text, words):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_tuned(path, domain="ct")
    assert "\n" not in str(caught.value)
    assert "s.yaml" in str(caught.value)


def test_files_made_by_hand(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("format_version: 1\nsolver: red-diff\noptions: {lam: 1e-3, tau: null}")
    assert read_tuned(path) == ("red-diff", (("lam", "1e-3"), ("tau", "none")))
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_tuned(tmp_path / "absent.yaml")


def test_every_kind_of_value_survives(tmp_path):
    path = tmp_path / "s.yaml"
    options = {"lam": 1e-05, "n_steps": 20, "antithetic": True, "tau": None, "weight": "sqrt",
               "sigma_max": 1e16}  # fmt: skip
    write_tuned(path, {"domain": "ct", "solver": "red-diff", "options": options})
    solver, words = read_tuned(path, domain="ct")
    settings = settings_of(solver, dict(words))
    assert set(options) <= set(options_of("red-diff"))
    assert {name: getattr(settings, name) for name in options} == options
