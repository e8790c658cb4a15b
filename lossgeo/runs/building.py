"""From a recipe to the landscape that it names, and to where its trials begin."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.errors import UsageError
from lossgeo.landscapes.critical_point import CriticalPoint, Knowledge
from lossgeo.landscapes.datasets import Data, Dataset
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.surface_module import SurfaceLoss, SurfaceModule, surface_data
from lossgeo.landscapes.surfaces import Surface
from lossgeo.randomness import generator, trial_seed
from lossgeo.recipes.recipe import Recipe
from lossgeo.saddles.saddle import Saddles, Watch, beginnings, saddles_on_the_way


def landscape_and_data(recipe: Recipe, device: torch.device | str) -> tuple[Landscape, Data]:
    """The landscape that a recipe trains on, at its initial point, and where its data came from.

    Raises:
        UsageError: data, model and loss do not fit together, or the data cannot be read.
    """
    if recipe.surface is not None:
        return _of_surface(recipe, recipe.surface, device)
    model, dataset, loss = network(recipe)
    data = dataset.load(loss.accepts)
    if data.task.targets not in loss.accepts:
        raise UsageError(
            f"loss {loss.component_name()!r} takes {' or '.join(loss.accepts)}, the data have {data.task.targets}; use "
            f"`loss: {'mse' if data.task.targets == 'values' else 'cross_entropy'}`, or say what they are with `kind`"
        )
    size = _batch_size(recipe, data)
    plant = None if recipe.start is None else recipe.start.plant
    exact = plant is not None  # in float32 no planted point is critical
    dtype = getattr(torch, ("float64" if exact else "float32") if recipe.dtype == "auto" else recipe.dtype)
    data.refuse_lost(dtype)
    module = model.build(data.task, generator(recipe.seed, "initialization"))
    known = Knowledge()
    if plant is not None:
        points = plant.points(model, data, loss, recipe.seed)
        known = Knowledge(f"plant {plant.component_name()!r}", lambda: points, ordered=plant.chain)
    made = Landscape(module, loss, data.task, data.train, data.test, dtype, device, known=known, decay=recipe.decay)
    made.flat.rehearse(
        made.train.inputs[: data.train.size % size or size]
    )  # the last batch of an epoch is the smallest
    return made, data


def _of_surface(recipe: Recipe, surface: Surface, device: torch.device | str) -> tuple[Landscape, Data]:
    data = surface_data(surface)
    _batch_size(recipe, data)
    dtype = getattr(torch, "float64" if recipe.dtype == "auto" else recipe.dtype)
    module = SurfaceModule(surface, surface.start(generator(recipe.seed, "initialization")))
    owner = f"surface {surface.component_name()!r}"
    if recipe.decay:  # its critical points are others, and nothing is known of them
        known = Knowledge(owner, invariants=surface.invariants)
    else:

        def saddles() -> Iterator[CriticalPoint]:
            return (point for point in surface.critical_points() if point.is_saddle)

        known = Knowledge(owner, saddles, surface.theory, surface.chain, surface.invariants)
    kind = (data.task, data.train, data.test, dtype, device)
    return Landscape(module, SurfaceLoss(), *kind, formula=surface.value, known=known, decay=recipe.decay), data


def network(recipe: Recipe) -> tuple[Model, Dataset, Loss]:
    """Model, dataset and loss of a recipe that has no surface."""
    assert recipe.model is not None, "a recipe has a surface or all of these"
    assert recipe.dataset is not None
    assert recipe.loss is not None
    return recipe.model, recipe.dataset, recipe.loss


def _batch_size(recipe: Recipe, data: Data) -> int:
    if recipe.batch_size == "full":
        return data.train.size
    if recipe.batch_size > data.train.size:
        raise UsageError(
            f"batch_size {recipe.batch_size} of {data.train.size} training examples; use `batch_size: full`"
        )
    return recipe.batch_size


def _saddles(landscape: Landscape) -> Saddles:
    """The critical points that trials may begin at and be watched at, and the Hessian there."""

    def hessian(theta: torch.Tensor) -> LinearOperator:
        point = Point(0, theta.to(landscape.device), {})
        return Hessian().at(LocalLoss(landscape, point, landscape.train, dtype=torch.float64))

    return Saddles(landscape.known.owner, landscape.known.points, landscape.known.ordered, hessian)


def watch_of(recipe: Recipe, landscape: Landscape) -> Watch | None:
    """What looks for trials that have left a saddle; None where the recipe asks for nothing of the kind.

    Raises:
        UsageError: there is no saddle that is known, or not so many.
    """
    if recipe.escape is None:
        return None
    return Watch(recipe.escape, saddles_on_the_way(_saddles(landscape), recipe.start, recipe.escape))


def starts(recipe: Recipe, landscape: Landscape) -> torch.Tensor:
    """Where training begins: theta (P,), or (R, P) of R trials; on a surface, and from a planted saddle, always trials.

    Raises:
        UsageError: there is no saddle that trials should begin at, or the optimizer does not take trials.
    """
    optimizer = recipe.optimizer
    asked = list(inspect.signature(type(optimizer).step).parameters)[1:]
    if len(asked) != 4:
        raise UsageError(
            f"optimizer {optimizer.component_name()!r} has `step({', '.join(asked)})`; an optimizer's door is now "
            "`init(loss, theta)` and `step(loss, theta, state, lr)`, with `loss.gradient(theta)`"
        )
    if not optimizer.takes_trials and (recipe.replicas > 1 or recipe.start is not None or recipe.escape is not None):
        raise UsageError(
            f"optimizer {optimizer.component_name()!r} steps one run at a time, not trials: sweep over `seed` in "
            "place of `replicas`, and leave `start` and `escape` out"
        )
    if recipe.start is not None:
        begun = beginnings(_saddles(landscape), recipe.start, recipe.seed, recipe.replicas)
        return begun.to(landscape.device, landscape.dtype)
    if recipe.surface is not None:
        streams = [generator(trial_seed(recipe.seed, trial), "initialization") for trial in range(recipe.replicas)]
        rows = torch.stack([recipe.surface.start(s) for s in streams]).to(landscape.device, landscape.dtype)
        return rows if optimizer.takes_trials else rows[0]
    if recipe.replicas == 1:
        return landscape.start()
    model, _, _ = network(recipe)
    built = [landscape.start()]
    for trial in range(1, recipe.replicas):
        module = model.build(landscape.task, generator(trial_seed(recipe.seed, trial), "initialization"))
        built.append(torch.cat([p.detach().reshape(-1) for p in module.parameters()]).to(built[0]))
    return torch.stack(built)
