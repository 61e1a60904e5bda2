"""From a distillation recipe to teacher, student and objective."""

__all__ = ["build_distillation", "student_config"]

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

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
from medsci.core.solve import Multistep, grid
from medsci.errors import InvalidInputError
from medsci.models.config import ModelConfig, SamplerHint, TeacherConfig, build_path
from medsci.models.sampling import few_step
from medsci.models.store import load_denoiser, verify_model
from medsci.nets.lora import add_lora
from medsci.nets.unet import build_network
from medsci.training.build import Parts
from medsci.training.build_law import build_metric, build_time_law
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
from medsci.training.sampling import Sampler

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
    path = getattr(recipe.objective, "path", None)
    if path is not None and path != teacher.path:
        blind = teacher.time_code in _PATH_BLIND and teacher.unit_input
        if not (blind and teacher.prediction == "edm"):
            raise InvalidInputError(
                f"objective.path: {teacher.name} predicts {teacher.prediction} with the time code "
                f"{teacher.time_code}, which mean something else on another path; leave path out, "
                "or use a teacher with prediction edm and time code angle"
            )
        student["path"] = path
    card = recipe.card
    for key in ("data", "voxel_size_mm"):
        if getattr(card, key):
            student[key] = getattr(card, key)
    return teacher.model_copy(update=student)


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
    known = {"sigma_data": student.sigma_data}
    match recipe.objective:
        case ReflowConfig() as reflow:
            steps = reflow.anneal_steps
            plain = Regression(
                time_law=build_time_law(reflow.time_law, **known),
                metric=build_metric(reflow.metric),
                coupling=Annealed(LinearAnneal(steps)) if steps else Independent(),
            )
            return lambda average: plain
        case OneStepConfig() as one:
            return lambda average: OneStep(build_metric(one.metric))
        case PhasedConfig() as phased:
            _, edges = few_step("ddim", phased.phases, prediction=student.pred)
            legs = Phased(
                teacher,
                tuple(edges.tolist()),
                phased.ladder,
                on=phased.on,
                metric=build_metric(phased.metric),
            )
            return lambda average: legs
        case FlowGuidedConfig() as guided:
            slim = FlowGuided(
                teacher,
                guided.first_leg,
                weight=guided.weight,
                metric=build_metric(guided.metric),
            )
            return lambda average: slim
        case ConsistencyConfig() as config:
            neighbours = Consistency(
                teacher,
                grid=grid.uniform(config.rungs),
                skip=config.skip,
                metric=PseudoHuber(config.width),
            )
            target = config.ema_target
            return lambda average: dataclasses.replace(
                neighbours, target=average if target else None
            )
        case VelocityMatchingConfig() as config:
            law = build_time_law(config.time_law, **known)
            match_velocity = VelocityMatching(
                teacher,
                derivative=config.derivative,
                normaliser=config.normaliser,
                time_law=law,
            )
            return lambda average: match_velocity
        case VelocityDistillConfig():
            return lambda average: VelocityDistill(teacher)
        case MmdConfig() as mmd:
            return _mmd(mmd, student)
    raise TypeError(f"{type(recipe.objective).__name__} describes no objective")


def _mmd(config: MmdConfig, student: Denoiser) -> Callable[[Denoiser], Objective]:
    from medsci.core.check.distribution import Polynomial
    from medsci.nets.features import DenoiserFeatures

    _, times = few_step("ddim", config.steps, prediction=student.pred)
    chain = MmdFinetune(
        times,
        solver=Multistep("eps", order=1),
        features=DenoiserFeatures(load_denoiser(config.features)),
        kernel=Polynomial(degree=config.degree, offset=1.0),
    )
    return lambda average: chain
