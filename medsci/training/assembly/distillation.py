"""From a distillation recipe to teacher, student and objective."""

__all__ = ["build_distillation", "student_config"]

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from medsci.core.denoise import Denoiser
from medsci.core.learn import (
    Annealed,
    Consistency,
    FlowGuided,
    Independent,
    LinearAnneal,
    MmdFinetune,
    Objective,
    OneStep,
    Phased,
    PseudoHuber,
    Regression,
    VelocityDistill,
    VelocityMatching,
)
from medsci.core.solve import Multistep
from medsci.errors import InvalidInputError
from medsci.models.config import (
    ModelConfig,
    PathConfig,
    RectifiedConfig,
    SamplerHint,
    TeacherConfig,
    build_path,
)
from medsci.models.sampling import few_step
from medsci.models.store import load_denoiser, verify_model
from medsci.nets.lora import add_lora
from medsci.nets.unet import build_network
from medsci.training.assembly.law import (
    build_metric,
    build_time_law,
    build_weight,
    perceptual_terms,
)
from medsci.training.assembly.parts import Parts
from medsci.training.assembly.sampler import Sampler
from medsci.training.recipe import DistillRecipe
from medsci.training.recipe.objective import (
    ConsistencyConfig,
    FlowGuidedConfig,
    MmdConfig,
    OneStepConfig,
    PhasedConfig,
    ReflowConfig,
    VelocityDistillConfig,
    VelocityMatchingConfig,
)

_PATH_BLIND = ("angle", "log_sigma_hat", "sigma_hat")


def student_config(recipe: DistillRecipe) -> ModelConfig:
    """Return what the student says about itself: the teacher's description, where it still holds.

    Raises:
        WeightsError: there is no such teacher, or it is damaged.
        InvalidInputError: the teacher cannot change its path.
    """
    teacher = verify_model(recipe.teacher).config
    student: dict[str, Any] = {
        "name": recipe.name,
        "objective": recipe.objective.kind,
        "teacher": TeacherConfig(name=teacher.name, sha256=teacher.sha256),
        "sampler": _hint(recipe),
        "adapters": (),
        "training": {},
        "sha256": "",
        "n_parameters": 0,
    }
    if recipe.student.network is not None:
        student["network"] = recipe.student.network
    path = _path(recipe)
    if path is not None and path != teacher.path:
        blind = teacher.time_code in _PATH_BLIND and teacher.unit_input
        if not (blind and teacher.prediction == "edm"):
            raise InvalidInputError(
                f"objective: {recipe.objective.kind} moves to the path {path.kind}, but "
                f"{teacher.name} predicts {teacher.prediction} with the time code "
                f"{teacher.time_code}, which mean something else there; use a teacher with "
                "prediction edm and time code angle"
            )
        student["path"] = path
    card = recipe.card
    for key in ("data", "voxel_size_mm"):
        if getattr(card, key):
            student[key] = getattr(card, key)
    return teacher.model_copy(update=student)


def _path(recipe: DistillRecipe) -> PathConfig | None:
    """Return the path that the objective asks for, None for the teacher's."""
    if isinstance(recipe.objective, VelocityMatchingConfig | VelocityDistillConfig):
        return RectifiedConfig()  # average velocities are those of straight lines
    return getattr(recipe.objective, "path", None)


def _hint(recipe: DistillRecipe) -> SamplerHint:
    match recipe.objective:
        case OneStepConfig() | FlowGuidedConfig():
            return SamplerHint(steps=1, solver="ddim")
        case PhasedConfig(phases=phases):
            return SamplerHint(steps=phases, solver="ddim")
        case MmdConfig(steps=steps):
            return SamplerHint(steps=steps, solver="ddim")
        case ReflowConfig():
            return SamplerHint(steps=4, solver="ddim")
    return SamplerHint(steps=4, solver="renoise")


def build_distillation(recipe: DistillRecipe) -> Parts:
    """Return student, objective and sampler of a distillation.

    Raises:
        WeightsError: a model the recipe names is missing or damaged.
        InvalidInputError: teacher, student and objective do not go together.
    """
    config = student_config(recipe)
    precision = recipe.trainer.precision
    teacher = load_denoiser(recipe.teacher, precision=precision)
    student = _student(recipe, teacher, config)
    hint = config.sampler or SamplerHint(steps=4)
    solver, times = few_step(hint.solver, hint.steps, prediction=config.prediction)
    sampler = Sampler(
        count=recipe.samples.count,
        seed=recipe.samples.seed,
        n_labels=config.network.n_labels,
        solver=solver,
        grid=tuple(times.tolist()),
    )
    return Parts(student, _objective(recipe, teacher, student), sampler)


def _student(recipe: DistillRecipe, teacher: Denoiser, config: ModelConfig) -> Denoiser:
    if recipe.student.start == "random":
        net = build_network(config.network, seed=recipe.seed)
    else:
        net = copy.deepcopy(teacher.net)
    net.requires_grad_(requires_grad=True).train()
    lora = recipe.student.lora
    if lora is not None:
        add_lora(net, rank=lora.rank, alpha=lora.alpha, seed=recipe.seed)
    return Denoiser(
        net,
        path=build_path(config.path),
        pred=config.prediction,
        sigma_data=config.sigma_data,
        time_code=config.time_code,
        unit_input=config.unit_input,
        precision=recipe.trainer.precision,
    )


def _objective(
    recipe: DistillRecipe, teacher: Denoiser, student: Denoiser
) -> Callable[[Denoiser], Objective]:
    """Return average -> objective."""
    match recipe.objective:
        case ConsistencyConfig() as config:
            return _consistency(config, teacher, n_labels=student_config(recipe).network.n_labels)
        case MmdConfig() as config:
            return _fixed(_mmd(config, student))
        case VelocityDistillConfig():
            return _fixed(VelocityDistill(teacher))
        case VelocityMatchingConfig() as config:
            return _fixed(
                VelocityMatching(
                    teacher,
                    derivative=config.derivative,
                    normaliser=config.normaliser,
                    time_law=build_time_law(config.time_law, sigma_data=student.sigma_data),
                )
            )
    return _fixed(_on_pairs(recipe, teacher, student))


def _fixed(objective: Objective) -> Callable[[Denoiser], Objective]:
    return lambda average: objective


def _on_pairs(recipe: DistillRecipe, teacher: Denoiser, student: Denoiser) -> Objective:
    match recipe.objective:
        case ReflowConfig() as config:
            steps = config.anneal_steps
            return Regression(
                time_law=build_time_law(config.time_law, sigma_data=student.sigma_data),
                metric=build_metric(config.metric),
                coupling=Annealed(LinearAnneal(steps)) if steps else Independent(),
                weight=build_weight(config.weight),
                **perceptual_terms(config.perceptual),
            )
        case OneStepConfig() as config:
            return OneStep(build_metric(config.metric), t=_noise_end(student))
        case PhasedConfig() as config:
            _, edges = few_step("ddim", config.phases, prediction=student.pred)
            return Phased(
                teacher,
                tuple(edges.tolist()),
                config.ladder,
                on=config.on,
                metric=build_metric(config.metric),
            )
        case FlowGuidedConfig() as config:
            return FlowGuided(
                teacher,
                config.first_leg,
                weight=config.weight,
                metric=build_metric(config.metric),
                t=_noise_end(student),
            )
    raise TypeError(f"{type(recipe.objective).__name__} describes no objective")


def _noise_end(student: Denoiser) -> float:
    _, times = few_step("ddim", 1, prediction=student.pred)
    return float(times[0])


def _consistency(
    config: ConsistencyConfig, teacher: Denoiser, *, n_labels: int
) -> Callable[[Denoiser], Objective]:
    if config.guidance is not None and not n_labels:
        raise InvalidInputError(
            "objective.guidance: the teacher knows no labels to be guided by; leave guidance out"
        )
    neighbours = Consistency(
        teacher,
        grid=few_step("renoise", config.rungs, prediction=teacher.pred)[1],
        skip=config.skip,
        metric=PseudoHuber(config.width),
        guidance=config.guidance,
        null=None if config.guidance is None else {"label": torch.tensor([n_labels])},
    )
    if not config.ema_target:
        return _fixed(neighbours)
    return lambda average: dataclasses.replace(neighbours, target=average)


def _mmd(config: MmdConfig, student: Denoiser) -> MmdFinetune:
    from medsci.core.check.distribution import Polynomial
    from medsci.nets.features import DenoiserFeatures

    _, times = few_step("ddim", config.steps, prediction=student.pred)
    return MmdFinetune(
        times,
        solver=Multistep("eps", order=1),
        features=DenoiserFeatures(load_denoiser(config.features)),
        kernel=Polynomial(degree=config.degree, offset=1.0),
    )
