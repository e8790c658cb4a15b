"""Every loss against numpy, and the interface's promises for every loss in the folder."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian
from torch.nn import functional

from lossgeo.components.finding import find, names
from lossgeo.components.parsing import parse
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.losses.mse import MSE
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.task import Examples, Targets, Task
from lossgeo.randomness import generator

LOSSES = names(Loss)
CASES = [(name, kind) for name in LOSSES for kind in find(Loss, name).accepts]

N, C = 7, 3  # 7 is prime: no chunking of it is even


def _example(kind: Targets, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Task]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, C, N) if kind == "classes" else rng.normal(size=(N, C))
    return rng.normal(size=(N, C)) * 3, targets, Task((4,), C, kind)


def _by_hand(name: str, outputs: np.ndarray, targets: np.ndarray) -> float:
    """The definitions, one example at a time in Python's own arithmetic."""
    costs = []
    for f, y in zip(outputs.tolist(), targets.tolist(), strict=True):
        if name == "cross_entropy":
            costs.append(math.log(math.fsum(math.exp(c) for c in f)) - f[y])
        else:
            goal = y if isinstance(y, list) else [1.0 if c == y else 0.0 for c in range(C)]
            costs.append(math.fsum((a - b) ** 2 for a, b in zip(f, goal, strict=True)) / 2)
    return math.fsum(costs) / len(costs)


def test_the_folder_holds_the_losses_that_are_tested_by_hand() -> None:
    assert LOSSES == ["cross_entropy", "mse"]
    assert CASES == [("cross_entropy", "classes"), ("mse", "classes"), ("mse", "values")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_mean_is_the_definition(name: str, kind: Targets) -> None:
    outputs, targets, task = _example(kind)
    loss = find(Loss, name)()
    prepared = loss.prepare(torch.from_numpy(targets), task, torch.float64)
    mean = loss.mean(torch.from_numpy(outputs), prepared)
    assert mean.shape == ()
    assert mean.item() == pytest.approx(_by_hand(name, outputs, targets), rel=1e-14)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_chunks_combine_by_their_weights(name: str, kind: Targets) -> None:
    outputs, targets, task = _example(kind)
    loss = find(Loss, name)()
    f, y = torch.from_numpy(outputs), loss.prepare(torch.from_numpy(targets), task, torch.float64)
    assert loss.weight(y) == N
    parts = [slice(0, 5), slice(5, 7)]
    combined = sum(loss.weight(y[p]) * loss.mean(f[p], y[p]).item() for p in parts) / N
    assert combined == pytest.approx(loss.mean(f, y).item(), rel=1e-14)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradient_is_the_closed_form(name: str, kind: Targets) -> None:
    outputs, targets, task = _example(kind)
    onehot = targets if kind == "values" else np.eye(C)[targets]
    exp = np.exp(outputs)
    expected = (exp / exp.sum(1, keepdims=True) if name == "cross_entropy" else outputs) - onehot
    loss = find(Loss, name)()
    f = torch.from_numpy(outputs).requires_grad_()
    loss.mean(f, loss.prepare(torch.from_numpy(targets), task, torch.float64)).backward()
    np.testing.assert_allclose(f.grad, expected / N, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_slope_is_the_mean_and_its_derivative(name: str, kind: Targets, generic: bool) -> None:
    outputs, targets, task = _example(kind)
    loss = find(Loss, name)()
    prepared = loss.prepare(torch.from_numpy(targets), task, torch.float64)
    f = torch.from_numpy(outputs).requires_grad_()
    mean = loss.mean(f, prepared)
    mean.backward()
    given = torch.from_numpy(outputs)
    with torch.no_grad():  # as the training loop asks for it
        value, slope = Loss.gradient(loss, given, prepared) if generic else loss.gradient(given, prepared)
    assert float(value) == pytest.approx(float(mean.detach()), rel=1e-14)
    np.testing.assert_allclose(slope, f.grad, rtol=1e-13, atol=1e-16)
    assert torch.equal(given, torch.from_numpy(_example(kind)[0]))


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prepared_targets_are_idle_and_of_the_run_s_dtype(name: str, kind: Targets, dtype: torch.dtype) -> None:
    outputs, targets, task = _example(kind)
    given = torch.from_numpy(targets)
    before = given.clone()
    loss = find(Loss, name)()
    prepared = loss.prepare(given, task, dtype)
    assert prepared.shape[0] == N
    assert torch.equal(given, before)
    assert loss.mean(torch.from_numpy(outputs).to(dtype), prepared).dtype == dtype


# --- weights, ignored targets and sequences --------------------------------------------------------------------------

WEIGHTS = (0.5, 2.0, 3.25)
MARK = -7  # no class
OPTIONS: dict[str, tuple[str, Targets, dict[str, Any]]] = {
    "cross_entropy": ("cross_entropy", "classes", {}),
    "a class ignored": ("cross_entropy", "classes", {"ignore_index": 1}),
    "a mark ignored": ("cross_entropy", "classes", {"ignore_index": MARK}),
    "weighted": ("cross_entropy", "classes", {"class_weights": WEIGHTS}),
    "weighted and ignored": ("cross_entropy", "classes", {"ignore_index": MARK, "class_weights": WEIGHTS}),
    "mse of classes": ("mse", "classes", {}),
    "mse of values": ("mse", "values", {}),
}
LENGTHS = [None, 1, 5]  # of sequences; None: one target an example
every_option = pytest.mark.parametrize("option", OPTIONS)
every_length = pytest.mark.parametrize("length", LENGTHS)


class Given(NamedTuple):
    loss: Loss
    outputs: torch.Tensor  # (N, C) or (N, length, C)
    raw: torch.Tensor  # the dataset's targets
    targets: torch.Tensor  # prepared
    task: Task


def given(option: str, length: int | None, dtype: torch.dtype = torch.float64) -> Given:
    name, kind, fields = OPTIONS[option]
    loss, rng = find(Loss, name)(**fields), np.random.default_rng(1)
    shape = (N,) if length is None else (N, length)
    task = Task((4,), C, kind) if length is None else Task((length,), C, kind, vocabulary=C)
    outputs = torch.from_numpy(rng.normal(size=(*shape, C)) * 3).to(dtype)
    if kind == "values":
        raw = torch.from_numpy(rng.normal(size=(*shape, C)))
    else:
        raw = torch.from_numpy(rng.integers(0, C, shape))
        if fields.get("ignore_index") is not None:
            raw = raw.where(torch.from_numpy(rng.random(shape) < 0.6), fields["ignore_index"])
            raw[2] = fields["ignore_index"]  # an example that does not count at all
    return Given(loss, outputs, raw, loss.prepare(raw, task, dtype), task)


def close(found: torch.Tensor | float, expected: torch.Tensor | float) -> None:
    pair = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-14)


@every_length
@pytest.mark.parametrize("option", [o for o in OPTIONS if OPTIONS[o][0] == "cross_entropy"])
def test_cross_entropy_is_torch_s_own(option: str, length: int | None) -> None:
    loss, outputs, raw, targets, _ = given(option, length)
    fields = OPTIONS[option][2]
    f = outputs.clone().requires_grad_()

    def theirs(reduction: str) -> torch.Tensor:
        return functional.cross_entropy(
            f.reshape(-1, C),
            raw.reshape(-1),
            weight=torch.tensor(WEIGHTS, dtype=torch.float64) if "class_weights" in fields else None,
            ignore_index=fields.get("ignore_index", -100),
            reduction=reduction,
        )

    (expected,) = torch.autograd.grad(theirs("mean"), f)
    value, slope = loss.gradient(outputs, targets)
    close(loss.mean(outputs, targets), theirs("mean").detach())
    close(value, theirs("mean").detach())
    close(slope, expected)
    close(loss.weight(targets), (theirs("sum") / theirs("mean")).detach())
    close(loss.each(outputs, targets), theirs("none").detach().reshape(N, -1).sum(1))
    (through,) = torch.autograd.grad(loss.mean(f, targets), f)
    close(through, expected)


@every_length
@pytest.mark.parametrize("option", ["mse of classes", "mse of values"])
def test_mse_is_half_the_squared_distance_a_position(option: str, length: int | None) -> None:
    loss, outputs, raw, targets, _ = given(option, length)
    wanted = raw if raw.is_floating_point() else (raw[..., None] == torch.arange(C)).double()
    each = 0.5 * ((outputs - wanted) ** 2).reshape(N, -1).sum(1)
    close(loss.each(outputs, targets), each)
    close(loss.mean(outputs, targets), each.sum() / (N * (length or 1)))
    assert loss.weight(targets) == N * (length or 1)


@every_option
@every_length
def test_examples_add_up_to_the_mean(option: str, length: int | None) -> None:
    loss, outputs, _, targets, _ = given(option, length)
    each, weights = loss.each(outputs, targets), loss.weights(targets)
    assert each.shape == weights.shape == (N,)
    assert weights.dtype == torch.float64
    close(each.sum() / loss.weight(targets), loss.mean(outputs, targets))
    close(weights.sum(), loss.weight(targets))
    for i in range(N):
        one = slice(i, i + 1)
        close(each[i], loss.mean(outputs[one], targets[one]) * loss.weight(targets[one]))
        close(weights[i], loss.weight(targets[one]))


@every_option
@every_length
def test_derivatives_are_those_of_autograd(option: str, length: int | None) -> None:
    loss, outputs, _, targets, _ = given(option, length)
    f = outputs.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(loss.each(f, targets).sum(), f)
    close(loss.gradients(outputs, targets), slopes)
    both = loss.each_and_gradients(outputs, targets)
    close(both[0], loss.each(outputs, targets))
    close(both[1], slopes)
    close(loss.gradient(outputs, targets)[1] * loss.weight(targets), slopes)
    tangents = torch.randn(outputs.shape, generator=generator(0, "tangents"), dtype=torch.float64)
    dense = hessian(lambda f: loss.mean(f, targets), outputs).reshape(outputs.numel(), outputs.numel())
    close(loss.hvp(outputs, targets, tangents).flatten(), dense @ tangents.flatten())
    for generic, closed in (
        (Loss.each(loss, outputs, targets), loss.each(outputs, targets)),
        (Loss.weights(loss, targets), loss.weights(targets)),
        (Loss.gradient(loss, outputs, targets)[1], loss.gradient(outputs, targets)[1]),
        (Loss.gradients(loss, outputs, targets), loss.gradients(outputs, targets)),
        (Loss.hvp(loss, outputs, targets, tangents), loss.hvp(outputs, targets, tangents)),
    ):
        assert generic.shape == closed.shape
        close(generic, closed)


@every_option
@every_length
def test_closed_forms_carry_no_graph_keep_the_dtype_and_touch_nothing(option: str, length: int | None) -> None:
    loss, outputs, _, targets, _ = given(option, length, torch.float32)
    before = outputs.clone(), targets.clone()
    f = outputs.requires_grad_()
    stream = torch.Generator().manual_seed(0)
    derivatives = (
        *loss.gradient(f, targets),
        loss.gradients(f, targets),
        loss.hvp(f, targets, torch.ones_like(outputs)),
        loss.sampled_gradients(f, targets, stream),
    )
    for found in derivatives:
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert all(found.shape == outputs.shape for found in derivatives[1:])
    assert loss.each(f, targets).dtype == loss.mean(f, targets).dtype == torch.float32
    assert loss.each(f, targets).requires_grad
    assert torch.equal(outputs.detach(), before[0])
    assert torch.equal(targets, before[1])


@every_option
@every_length
def test_sampled_slopes_have_mean_zero_and_the_bend_for_covariance(option: str, length: int | None) -> None:
    loss, outputs, _, targets, _ = given(option, length)
    samples = 40_000
    for example in (0, 2, 3):  # of which number 2 is one that is ignored
        one = slice(example, example + 1)
        repeated = (t[one].expand(samples, *t.shape[1:]) for t in (outputs, targets))
        g = loss.sampled_gradients(*repeated, generator(example, "draws")).flatten(1)
        size = g.shape[1]
        assert bool((g.mean(0).abs() <= 4 * g.std(0) / math.sqrt(samples) + 1e-15).all())
        products = g[:, :, None] * g[:, None, :]
        found, stderr = products.mean(0), products.std(0) / math.sqrt(samples)
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *outputs.shape[1:])
        columns = [loss.hvp(outputs[one], targets[one], e[None]).flatten() for e in basis]
        expected = torch.stack(columns) * loss.weight(targets[one])
        # 4 sigma of each entry; probabilities that are all but 0 or 1 are never seen in the other state
        assert bool(((found - expected).abs() <= 4 * stderr + 4 / samples).all())
        if length is not None and length > 1:  # positions are drawn independently
            assert torch.count_nonzero(expected[:C, C:]) == 0


def test_drawn_classes_are_those_of_the_prediction() -> None:
    """Fed with equally spaced numbers instead of random ones, every class comes up in its exact proportion."""
    p = torch.tensor([0.0, 0.25, 0.5, 0.25, 0.0], dtype=torch.float64)
    rows = 1000
    outputs = p.log().clamp(min=-800).expand(rows, 5)  # e^-800 is 0
    drawn = torch.zeros(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **_: (torch.arange(rows) / rows).double()[:, None])
        slopes = CrossEntropy().sampled_gradients(outputs, torch.zeros(rows, dtype=torch.int64), torch.Generator())
    drawn = (p - slopes).sum(0)
    close(drawn, p * rows)


@every_option
@every_length
def test_draws_do_not_depend_on_the_chunks(option: str, length: int | None) -> None:
    loss, outputs, _, targets, _ = given(option, length)
    whole = loss.sampled_gradients(outputs, targets, generator(0, "draws"))
    stream = generator(0, "draws")
    pieces = [loss.sampled_gradients(outputs[p], targets[p], stream) for p in (slice(0, 4), slice(4, 7))]
    assert torch.equal(whole, torch.cat(pieces))
    assert any(not torch.equal(whole, loss.sampled_gradients(outputs, targets, stream)) for _ in range(20))


@pytest.mark.parametrize("option", ["a class ignored", "a mark ignored", "weighted and ignored"])
@every_length
def test_a_chunk_without_a_target_that_counts_is_zero_and_not_nan(option: str, length: int | None) -> None:
    loss, outputs, _, targets, _ = given(option, length)
    f, y = outputs[2:3].clone().requires_grad_(), targets[2:3]
    assert loss.weight(y) == 0
    assert loss.weights(y).tolist() == loss.each(f, y).tolist() == [0]
    value, slope = loss.gradient(f, y)
    (gradient,) = torch.autograd.grad(loss.mean(f, y), f)
    draws = loss.sampled_gradients(f, y, generator(0, "draws"))
    zeros = (slope, loss.gradients(f, y), gradient, loss.hvp(f, y, torch.ones_like(f)), draws)
    assert loss.mean(f, y).item() == value.item() == 0
    for found in zeros:
        assert torch.equal(found.abs(), torch.zeros_like(found))


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (CrossEntropy(), [0, 3], r"a target is 3, the classes are 0 to 2; name it as `loss.ignore_index` if it should"),
        (CrossEntropy(), [0, -100], r"a target is -100, the classes are 0 to 2; name it as `loss.ignore_index`"),
        (CrossEntropy(ignore_index=-1), [-1, -100], r"a target is -100, .*; loss.ignore_index leaves out -1 alone"),
        (CrossEntropy(ignore_index=1), [1, 1], r"every target is 1, loss.ignore_index; none is left to count"),
        (CrossEntropy(class_weights=(1.0, 2.0)), [0, 1], r"loss.class_weights has 2 numbers, the data have 3 classes"),
        (MSE(), [0, -100], r"a target is -100, the classes are 0 to 2; use `loss: {name: cross_entropy, ignore_index"),
    ],
)
def test_targets_that_a_loss_cannot_take_are_refused(loss: Loss, targets: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loss.prepare(torch.tensor(targets), Task((4,), C, "classes"), torch.float64)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"class_weights": [1.0, 0.0]}, ("class_weights", 1)),
        ({"class_weights": [1.0, -2]}, ("class_weights", 1)),
        ({"class_weights": []}, ("class_weights",)),
        ({"ignore_index": 0.5}, ("ignore_index",)),
    ],
)
def test_fields_out_of_bounds_are_refused(fields: dict[str, Any], key: tuple[str | int, ...]) -> None:
    value, problems = parse(Loss, {"name": "cross_entropy", **fields})
    assert value is None
    assert [p.keys for p in problems] == [key]


class Least(Loss):
    """A loss of the user's that says no more than it must: the mean absolute output, linear almost everywhere."""

    accepts = ("classes",)

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        return targets

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() / len(outputs)

    def weight(self, targets: torch.Tensor) -> float:
        return float(len(targets))


def test_the_least_that_a_loss_has_to_say_is_enough() -> None:
    outputs, targets = torch.randn(N, C, dtype=torch.float64), torch.zeros(N, dtype=torch.int64)
    loss = Least()
    close(loss.each(outputs, targets), outputs.sum(1))
    close(loss.gradients(outputs, targets), torch.ones_like(outputs))
    close(loss.hvp(outputs, targets, outputs), torch.zeros_like(outputs))
    with pytest.raises(
        UsageError, match=r"'test_losses' does not say how to draw targets; use `operator: gauss_newton`"
    ):
        loss.sampled_gradients(outputs, targets, torch.Generator())


# --- in a landscape --------------------------------------------------------------------------------------------------


def landscape(option: str, length: int | None, chunk: int | None = None) -> tuple[Landscape, Given]:
    case = given(option, length)
    stream = generator(0, "inputs")
    if length is None:
        inputs = torch.randn(N, *case.task.inputs, generator=stream, dtype=torch.float64)
        model = find(Model, "mlp")(hidden=(5,))
    else:
        inputs = torch.randint(C, (N, length), generator=stream)
        model = find(Model, "transformer")(width=4, heads=2, layers=1, tie_weights=True)
    module = model.build(case.task, generator(0, "init"))
    examples = Examples(inputs, case.raw)
    return Landscape(module, case.loss, case.task, examples, examples, torch.float64, chunk=chunk), case


@every_option
@every_length
def test_loss_accuracy_and_gradient_are_the_same_at_any_chunk_size(option: str, length: int | None) -> None:
    whole, case = landscape(option, length)
    theta = whole.start()
    outputs = whole.outputs(theta, whole.train.inputs)
    expected = whole.evaluate(theta, whole.train)
    close(expected.loss, case.loss.mean(outputs, case.targets).item())
    if case.task.targets == "classes":
        counts = case.raw != OPTIONS[option][2].get("ignore_index", MARK)
        close(expected.accuracy, float((outputs.argmax(-1) == case.raw)[counts].double().mean()))
    gradient = whole.mean_gradient(theta, whole.train)
    assert gradient.abs().max() > 0
    stepped = whole.gradient(theta, whole.train)
    close(stepped[0], expected.loss)
    torch.testing.assert_close(stepped[1], gradient, rtol=1e-12, atol=1e-14)
    for chunk in (1, 2, 10):
        pieces, _ = landscape(option, length, chunk)
        found = pieces.evaluate(theta, pieces.train)
        close(found.loss, expected.loss)
        assert found.accuracy == expected.accuracy
        torch.testing.assert_close(pieces.mean_gradient(theta, pieces.train), gradient, rtol=1e-12, atol=1e-14)


def test_tokens_stay_whole_numbers_and_a_model_of_another_shape_is_refused() -> None:
    whole, case = landscape("cross_entropy", 5)
    assert whole.train.inputs.dtype == torch.int64
    assert case.task.output_shape == (5, C)
    module = torch.nn.Sequential(torch.nn.Embedding(C, C), torch.nn.Flatten())
    with pytest.raises(UsageError, match=r"returns \(2, 15\) for two examples where the task wants \(2, 5, 3\)"):
        Landscape(module, case.loss, case.task, whole.train, whole.test)


def test_second_derivatives_exist() -> None:
    for name, kind in CASES:
        outputs, targets, task = _example(kind)
        loss = find(Loss, name)()
        y = loss.prepare(torch.from_numpy(targets), task, torch.float64)
        hessian = torch.autograd.functional.hessian(
            lambda f, y=y, loss=loss: loss.mean(f, y), torch.from_numpy(outputs)
        )
        block = hessian[0, :, 0, :].numpy() * N
        p = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
        expected = np.diag(p) - np.outer(p, p) if name == "cross_entropy" else np.eye(C)
        np.testing.assert_allclose(block, expected, rtol=1e-12, atol=1e-15)
