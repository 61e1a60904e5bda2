"""The solvers by name, with their options as a command line knows them."""

__all__ = ["METHODS", "Method", "method_of", "options_of", "settings_of", "solve"]

import dataclasses
import difflib
import importlib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final, get_args, get_origin

from medsci.errors import UsageError

if TYPE_CHECKING:
    from medsci.core import Rng
    from medsci.inverse.measurement import Measurement, Prior, Progress, Solution


@final
@dataclass(frozen=True)
class Method:
    """A solver and what to know when choosing it.

    Attributes:
        module: where it lives, below `medsci.inverse.solvers`.
        function: its name there.
        settings: the name of its settings there.
        samples: whether runs with other seeds are samples, whose spread says something.
        gradient: whether it differentiates the network (about twice the time, and its memory).
        about: one line.
    """

    module: str
    function: str
    settings: str
    samples: bool
    gradient: bool
    about: str

    def load(self) -> tuple[Any, type]:
        """Return the function and the class of its settings."""
        module = importlib.import_module(f"medsci.inverse.solvers.{self.module}")
        return getattr(module, self.function), getattr(module, self.settings)


METHODS: dict[str, Method] = {
    "dds3d": Method(
        "dds3d", "dds3d", "Dds3dSettings", samples=True, gradient=False,
        about="data consistency by CG and z-TV on every clean estimate; 20 to 50 calls",
    ),
    "mbir": Method(
        "mbir", "mbir", "MbirSettings", samples=True, gradient=False,
        about="predictor-corrector with ADMM-TV on the noisy iterate; 400 to 4000 calls",
    ),
    "red-diff": Method(
        "red_diff", "red_diff", "RedDiffSettings", samples=False, gradient=False,
        about="optimises one image; a mode, not a sample; about 100 calls",
    ),
    "flowchef": Method(
        "flow_chef", "flow_chef", "FlowChefSettings", samples=True, gradient=False,
        about="steers the walk by the data's gradient; for flow priors; about 100 calls",
    ),
    "diffpir": Method(
        "diff_pir", "diff_pir", "DiffPirSettings", samples=True, gradient=False,
        about="proximal step weighed by the noise; about 100 calls",
    ),
    "pigdm": Method(
        "pi_gdm", "pi_gdm", "PiGdmSettings", samples=True, gradient=True,
        about="pseudo-inverse guidance through the network; about 100 calls",
    ),
    "dps": Method(
        "dps", "dps", "DpsSettings", samples=True, gradient=True,
        about="posterior sampling by the gradient of the misfit; about 1000 calls",
    ),
    "ddrm": Method(
        "ddrm", "ddrm", "DdrmSettings", samples=True, gradient=False,
        about="for operators of known SVD: masks, blur, super-resolution, one coil; 20 calls",
    ),
    "pnp": Method(
        "pnp", "pnp", "PnpSettings", samples=False, gradient=False,
        about="plug-and-play: the prior as a denoiser in HQS, ADMM, RED or PGD; 8 to 24 calls",
    ),
}  # fmt: skip
"""Name on the command line -> method."""

_PLAIN = (int, float, bool, type(None))


def solve(
    measured: "Measurement",
    prior: "Prior",
    *,
    rng: "Rng",
    method: str = "dds3d",
    settings: Any = None,
    progress: "Progress | None" = None,
) -> "Solution":
    """Reconstruct an image from a measurement and a prior.

    Args:
        measured: data and operator; the operator should have norm one, see
            `Measurement.normalised`.
        prior: a denoiser of the image's slices.
        rng: one sample id per slice.
        method: a name of `METHODS`.
        settings: of that method; its defaults if None.
        progress: called as `progress(done, total)`.

    Raises:
        UsageError: there is no such method, or the settings are another one's.
    """
    function, kind = method_of(method).load()
    if settings is not None and not isinstance(settings, kind):
        raise UsageError(
            f"settings of type {type(settings).__name__} came for {method}; give {kind.__name__}"
        )
    return function(measured, prior, rng=rng, settings=settings, progress=progress)


def method_of(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(METHODS)}"
        raise UsageError(f"there is no method {name!r}; {hint}")
    return METHODS[name]


def options_of(method: str) -> dict[str, Any]:
    """Return the options of a method that can be written as text, with their defaults.

    Those of a table within the settings have dotted names, such as `consistency.n_cg`.
    """
    _, kind = method_of(method).load()
    return {name: _value(kind(), name) for name in _hints(kind)}


def settings_of(method: str, options: Mapping[str, str], *, base: Any = None) -> Any:
    """Build the settings of a method from options written as text.

    Args:
        method: a name of `METHODS`.
        options: `name -> text`, for instance `{"n_steps": "50"}`; `consistency.n_cg` reaches into
            a table. They are checked together, so their order does not matter.
        base: settings to start from; the defaults if None.

    Raises:
        UsageError: an option is unknown, or its text is no value of its type or range.
    """
    _, kind = method_of(method).load()
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for given, text in options.items():
        name = given.replace("-", "_")
        if name not in hints:
            raise UsageError(f"{method} has no option {given!r}; {_nearest(name, hints)}")
        values[name] = _parsed(text, hints[name], name=name)
    try:
        return _changed(kind() if base is None else base, values)
    except ValueError as error:
        raise UsageError(f"{method}: {error}") from error


def _hints(kind: Any) -> dict[str, Any]:
    """Return name -> type of every field that text can fill, tables flattened."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= {f"{name}.{inner}": h for inner, h in _hints(hint).items()}
        elif any(_is_plain(kind) for kind in _choices(hint)):
            found[name] = hint
    return found


def _value(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """Suggest an option; a name that lacks its table is found too."""
    whole = {known_name.rpartition(".")[2]: known_name for known_name in reversed(list(known))}
    near = difflib.get_close_matches(name, [*whole, *known], n=1)
    return f"did you mean {whole.get(near[0], near[0])}?" if near else f"it has {', '.join(known)}"


def _changed(settings: Any, values: Mapping[str, Any]) -> Any:
    """Replace fields, all at once: two may only fit each other."""
    here = {name: value for name, value in values.items() if "." not in name}
    tables: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot:
            tables.setdefault(head, {})[rest] = value
    below = {head: _changed(getattr(settings, head), part) for head, part in tables.items()}
    return dataclasses.replace(settings, **here, **below)


def _parsed(text: str, hint: Any, *, name: str) -> Any:
    for kind in _choices(hint):
        if kind is type(None) and text.lower() == "none":
            return None
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if get_origin(kind) is Literal and text in get_args(kind):
            return text
        if kind in (int, float):
            try:
                number = kind(text)
            except ValueError:
                continue
            if not math.isnan(number):  # it would slip through checks of a range
                return number
    wanted = " or ".join(_spelt(kind) for kind in _choices(hint) if _is_plain(kind))
    raise UsageError(f"{name}={text} came; {name} takes {wanted}")


def _is_plain(kind: Any) -> bool:
    return kind in _PLAIN or get_origin(kind) is Literal


def _spelt(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    return words[kind]


def _choices(hint: Any) -> tuple[Any, ...]:
    union = get_origin(hint) in (typing.Union, types.UnionType)
    return get_args(hint) if union else (hint,)
