"""Every model in the folder: shapes, initial weights, determinism; and what each family says about itself."""

from __future__ import annotations

import random
from itertools import pairwise
from math import erf, prod, sqrt
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossgeo.components.finding import find, names
from lossgeo.components.parsing import parse
from lossgeo.errors import UsageError
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models.cnn import CNN
from lossgeo.landscapes.models.deep_linear import DeepLinear
from lossgeo.landscapes.models.logistic import Logistic
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.models.resnet import ResNet
from lossgeo.landscapes.models.transformer import Transformer
from lossgeo.landscapes.task import Task
from lossgeo.randomness import generator

MODELS = names(Model)

# the shapes of the datasets in lossgeo, and the smallest of each rank
SHAPES = [(30,), (1,), (1, 40), (1, 1), (1, 8, 8), (1, 28, 28), (3, 5, 2), (1, 1, 1)]
# the models that refuse some of them, by rank of the input
REFUSES = {"cnn": {1}}
OF_TOKENS = [name for name in MODELS if find(Model, name).tokens]
OF_NUMBERS = [name for name in MODELS if name not in OF_TOKENS]
TOKENS = Task((5,), 7, "classes", vocabulary=7)
IMAGES = Task((1, 8, 8), 3, "classes")
ACCEPTED = [
    *((n, Task(shape, 3, "classes")) for n in OF_NUMBERS for shape in SHAPES if len(shape) not in REFUSES.get(n, ())),
    *((name, Task((length,), 7, "classes", vocabulary=7)) for name in OF_TOKENS for length in (1, 5)),
    *((name, Task((5,), 3, "classes", vocabulary=7)) for name in OF_TOKENS),
]
SCHEMES = ["default", "he", "xavier", "orthogonal", "zero"]


def _inputs(shape: tuple[int, ...], size: int = 6) -> torch.Tensor:
    return torch.randn(size, *shape, generator=generator(0, "inputs"))


def _inputs_of(task: Task, size: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    if task.vocabulary is None:
        return _inputs(task.inputs, size).to(dtype)
    return torch.randint(task.vocabulary, (size, *task.inputs), generator=generator(0, "inputs"))


def _task_of(model: Model) -> Task:
    return TOKENS if model.tokens else IMAGES


def _build(model: Model, shape: tuple[int, ...] | None = None, outputs: int = 3, seed: int = 0) -> nn.Module:
    task = _task_of(model) if shape is None else Task(shape, outputs, "classes")
    return model.build(task, generator(seed, "init"))


def _theta(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- every model -----------------------------------------------------------------------------------------------------


def test_the_walk_over_the_folder_reaches_every_family() -> None:
    assert MODELS == ["cnn", "deep_linear", "logistic", "mlp", "resnet", "transformer"]
    assert OF_TOKENS == ["transformer"]
    assert len(ACCEPTED) == 5 * len(SHAPES) - 2 + 3  # cnn refuses the two flat ones


@pytest.mark.parametrize(("name", "task"), ACCEPTED)
def test_maps_a_batch_to_outputs_and_every_parameter_matters(name: str, task: Task) -> None:
    module = find(Model, name)().build(task, generator(0, "init"))
    outputs = module(_inputs_of(task))
    assert outputs.shape == (6, *task.output_shape)
    (outputs**2).sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    if prod(task.inputs) > 1:  # a normalization of a single number is constant, and dead relus pass nothing on
        moved = [key for key, p in module.named_parameters() if p.grad.abs().max() > 0]
        assert len(moved) == len(list(module.parameters())), set(dict(module.named_parameters())) - set(moved)


@pytest.mark.parametrize(("name", "rank"), [(name, rank) for name, ranks in REFUSES.items() for rank in ranks])
def test_what_a_model_refuses_is_refused_with_the_way_out(name: str, rank: int) -> None:
    with pytest.raises(UsageError, match=r"'cnn' takes signals .* not inputs of shape \(30,\); use `model: mlp`"):
        _build(find(Model, name)(), (30,) * rank)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_numbers_each_meet_their_models(name: str) -> None:
    model = find(Model, name)()
    if model.tokens:
        given, said = (
            IMAGES,
            rf"'{name}' takes tokens, not numbers of shape \(1, 8, 8\); use `model: mlp` or `dataset: text`",
        )
    else:
        given, said = TOKENS, rf"'{name}' takes numbers, not sequences of 5 tokens; use `model: transformer`"
    with pytest.raises(UsageError, match=said):
        model.build(given, generator(0, "init"))


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_volumes_are_refused_by_convolutions(name: str) -> None:
    with pytest.raises(UsageError, match=r"not inputs of shape \(1, 2, 3, 4\); use `model: mlp`"):
        _build(find(Model, name)(), (1, 2, 3, 4))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_a_function_of_the_generator_alone(name: str, scheme: str) -> None:
    model = find(Model, name)(initialization=scheme)
    torch.manual_seed(1)
    first = _build(model)
    torch.manual_seed(2)
    again = _build(model)
    assert [k for k, _ in first.named_parameters()] == [k for k, _ in again.named_parameters()]
    assert torch.equal(_theta(first), _theta(again))
    if scheme != "zero":
        assert not torch.equal(_theta(first), _theta(_build(model, seed=1)))
        stream = generator(0, "init")
        task = _task_of(model)
        assert not torch.equal(_theta(model.build(task, stream)), _theta(model.build(task, stream)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_building_leaves_every_global_generator_as_it_was(name: str, scheme: str) -> None:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    _build(find(Model, name)(initialization=scheme, gain=2.0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1][1])
    assert np.random.get_state()[2:] == before[1][2:]
    assert random.getstate() == before[2]


def test_the_global_generator_comes_back_from_a_refusal() -> None:
    before = torch.get_rng_state()
    with pytest.raises(UsageError):
        _build(CNN(), (30,))
    assert torch.equal(torch.get_rng_state(), before)


def _embedded(model: Model) -> set[str]:
    """Names of the weights of embeddings, which no scheme fills."""
    return {f"{name}.weight" for name, m in _build(model).named_modules() if isinstance(m, nn.Embedding)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_gain_scales_weights_and_nothing_else(name: str, scheme: str) -> None:
    plain = dict(_build(find(Model, name)(initialization=scheme)).named_parameters())
    scaled = dict(_build(find(Model, name)(initialization=scheme, gain=0.5)).named_parameters())
    assert plain.keys() == scaled.keys()
    embedded = _embedded(find(Model, name)())
    for key, parameter in plain.items():
        factor = 0.5 if parameter.ndim >= 2 and key not in embedded else 1.0
        assert torch.equal(scaled[key], parameter * factor), key  # halving is exact


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_schemes_zero_the_biases_and_leave_normalization_alone(name: str, scheme: str) -> None:
    for layer in _build(find(Model, name)(initialization=scheme)).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


@pytest.mark.parametrize("name", MODELS)
def test_zero_is_zero_and_a_wrong_scheme_is_no_scheme(name: str) -> None:
    model = find(Model, name)(initialization="zero")
    weights = [p for k, p in _build(model).named_parameters() if p.ndim >= 2 and k not in _embedded(model)]
    assert weights
    assert all(torch.equal(w, torch.zeros_like(w)) for w in weights)
    _, problems = parse(Model, {"name": name, "initialization": "kaiming", "gain": 0})
    assert {p.keys for p in problems} == {("initialization",), ("gain",)}


@pytest.mark.parametrize("name", MODELS)
def test_second_derivatives_exist(name: str) -> None:
    model = find(Model, name)
    smooth = {"activation": "tanh"} if "activation" in model.model_fields else {}  # differences break at a relu's kink
    module = _build(model(**smooth)).double()
    inputs = _inputs_of(_task_of(model()), dtype=torch.float64)
    parameters = list(module.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the one backend of attention that can be differentiated twice
        loss = module(inputs).square().mean()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    vector = [torch.randn(p.shape, generator=generator(1, "v"), dtype=p.dtype) for p in parameters]
    second = torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, vector, strict=True)), parameters)
    # the oracle: a central difference of first gradients; its error is O(h^2)
    h = 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(parameters, vector, strict=True):
                p.add_(v, alpha=sign * h)
        ends.append(torch.autograd.grad(module(inputs).square().mean(), parameters))
        with torch.no_grad():
            for p, v in zip(parameters, vector, strict=True):
                p.sub_(v, alpha=sign * h)
    difference = torch.cat([((a - b) / (2 * h)).flatten() for a, b in zip(*ends, strict=True)])
    product = torch.cat([s.flatten() for s in second])
    assert (product - difference).norm() < 1e-5 * difference.norm()


# --- initialization --------------------------------------------------------------------------------------------------


@final
class Given(Model):
    """The module that a test made."""

    layers: Any

    def module(self, task: Task) -> nn.Module:
        return self.layers


def initialize(layers: nn.Module, scheme: str, gain: float, seed: int = 0) -> None:
    Given(layers=layers, initialization=scheme, gain=gain).build(IMAGES, generator(seed, "w"))


# (layer, fan in, fan out): a kernel of 3 x 3 sees 9 numbers a channel
LAYERS = [
    (lambda: nn.Linear(200, 100), 200, 100),
    (lambda: nn.Conv2d(20, 40, 3), 180, 360),
    (lambda: nn.Conv1d(30, 50, 7), 210, 350),
]


@pytest.mark.parametrize(("layer", "fan_in", "fan_out"), LAYERS)
@pytest.mark.parametrize("scheme", ["he", "xavier"])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_normal_schemes_have_their_variance(layer, fan_in: int, fan_out: int, scheme: str, gain: float) -> None:
    module = layer()
    initialize(module, scheme, gain)
    variance = gain**2 * (2 / fan_in if scheme == "he" else 2 / (fan_in + fan_out))
    z = module.weight.detach().double().flatten() / sqrt(variance)
    n = z.numel()
    # 4 sigma of each moment of n standard normal numbers: mean 1/n, second moment 2/n, fourth moment 96/n
    assert abs(z.mean()) < 4 / sqrt(n)
    assert abs((z**2).mean() - 1) < 4 * sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 4 * sqrt(96 / n)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (8, 4, 3, 3)])
def test_orthogonal_weights_have_equal_singular_values(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    initialize(layer, "orthogonal", 2.0)
    matrix = layer.weight.detach().double().reshape(shape[0], -1).numpy()
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 2.0, rtol=1e-5)  # float32 weights


def test_default_leaves_every_bit() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    initialize(module, "default", 1.0)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    initialize(module, "default", 4.0)
    factors = {"0.weight": 4, "2.weight": 4}
    assert all(torch.equal(v, before[k] * factors.get(k, 1)) for k, v in module.state_dict().items())


def test_a_tied_weight_is_filled_and_scaled_once() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    alone = nn.Linear(6, 6)
    for scheme in ("default", "he"):
        with torch.no_grad():
            alone.weight.copy_(first.weight)
        initialize(nn.Sequential(first, second), scheme, 2.0)
        initialize(alone, scheme, 2.0)
        assert torch.equal(first.weight, alone.weight)
    assert torch.equal(second.bias, torch.zeros(6))


def test_layers_differ_and_each_draws_from_the_generator() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    initialize(module, "he", 1.0)
    assert not torch.equal(module[0].weight, module[1].weight)
    other = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    initialize(other, "he", 1.0, seed=1)
    assert not torch.equal(module[0].weight, other[0].weight)


def test_a_computed_weight_is_refused_instead_of_filled_in_vain() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    initialize(module, "default", 1.0)
    with pytest.raises(UsageError, match=r"'he' with gain 1 cannot fill layer '0'.*use `initialization: default`"):
        initialize(module, "he", 1.0)


# --- each family -----------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: z * 0.5 * (1 + np.vectorize(erf)(z / sqrt(2))),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "identity": lambda z: z,
}


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_is_its_equation(activation: str, bias: bool) -> None:
    module = _build(MLP(hidden=(7, 5), activation=activation, bias=bias), (1, 2, 3)).double()
    inputs = _inputs((1, 2, 3)).double()
    parameters = [p.detach().numpy() for p in module.parameters()]
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True)) if bias else [(w, 0.0) for w in parameters]
    h = inputs.numpy().reshape(6, -1)
    for i, (w, b) in enumerate(pairs):
        h = h @ w.T + b
        h = FUNCTIONS[activation](h) if i < len(pairs) - 1 else h
    assert len(pairs) == 3
    np.testing.assert_allclose(module(inputs).detach(), h, rtol=1e-12, atol=1e-14)


def test_mlp_sees_an_image_as_its_pixels() -> None:
    image, row = _build(MLP(), (1, 8, 8)), _build(MLP(), (64,))
    inputs = _inputs((1, 8, 8))
    assert [k for k, _ in image.named_parameters()] == [k for k, _ in row.named_parameters()]
    assert torch.equal(image(inputs), row(inputs.reshape(-1, 64)))


def test_mlp_without_hidden_layers_is_logistic_and_logistic_is_deep_linear_of_depth_one() -> None:
    networks = [_build(m) for m in (MLP(hidden=()), Logistic(), DeepLinear(depth=1, bias=True))]
    assert len({tuple(_theta(n).tolist()) for n in networks}) == 1
    inputs = _inputs((1, 8, 8))
    assert torch.equal(networks[0](inputs), networks[1](inputs))
    assert torch.equal(networks[0](inputs), networks[2](inputs))
    assert len(list(_build(Logistic(bias=False)).parameters())) == 1


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_deep_linear_is_a_product_of_matrices(depth: int) -> None:
    module = _build(DeepLinear(depth=depth, width=4), (6,)).double()
    matrices = [p.detach().numpy() for p in module.parameters()]
    assert [m.shape for m in matrices] == [(b, a) for a, b in pairwise((6, *(4,) * (depth - 1), 3))]
    inputs = _inputs((6,)).double()
    product = np.linalg.multi_dot(matrices[::-1]) if depth > 1 else matrices[0]
    np.testing.assert_allclose(module(inputs).detach(), inputs.numpy() @ product.T, rtol=1e-10, atol=1e-14)


def _convolved(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition of a convolution layer with kernels of odd side and zero padding, position by position."""
    pad = w.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), *[(pad, pad)] * (x.ndim - 2)))
    out = np.empty((len(x), len(w), *x.shape[2:]))
    for position in np.ndindex(*x.shape[2:]):
        window = padded[(..., *(slice(p, p + w.shape[2]) for p in position))]
        out[(slice(None), slice(None), *position)] = np.tensordot(window, w, (range(1, x.ndim), range(1, w.ndim))) + b
    return out


def _pooled(x: np.ndarray, reduce) -> np.ndarray:
    """Halving of every side that can be halved; an odd last row is left out."""
    for axis in range(2, x.ndim):
        half = x.shape[axis] // 2
        if half:
            pairs = np.take(x, range(2 * half), axis).reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :])
            x = reduce(pairs, axis + 1)
    return x


@pytest.mark.parametrize("shape", [(2, 9), (1, 5, 6), (1, 1, 7)])
@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_cnn_is_its_equation(shape: tuple[int, ...], pooling: str, kernel: int) -> None:
    module = _build(CNN(channels=(2, 3, 2, 2), kernel=kernel, pooling=pooling, activation="tanh"), shape).double()
    h = _inputs(shape).double().numpy()
    *stages, (w, b) = list(zip(*[iter([p.detach().numpy() for p in module.parameters()])] * 2, strict=True))
    for kernels, biases in stages:
        h = _pooled(np.tanh(_convolved(h, kernels, biases)), np.mean if pooling == "average" else np.max)
    assert len(stages) == 4
    expected = h.reshape(6, -1) @ w.T + b
    np.testing.assert_allclose(module(_inputs(shape).double()).detach(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(5,), (2, 6), (2, 4, 3)])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_resnet_is_its_equation(shape: tuple[int, ...], skip: bool, normalization: str) -> None:
    model = ResNet(width=4, blocks=2, skip=skip, normalization=normalization, activation="tanh")
    module = _build(model, shape).double()
    parameters = iter([p.detach().numpy() for p in module.parameters()])

    def layer(x: np.ndarray) -> np.ndarray:
        w = next(parameters)
        b = next(parameters) if normalization == "none" else np.zeros(4)
        z = _convolved(x, w, b) if len(shape) > 1 else x @ w.T + b
        if normalization == "none":
            return z
        next(parameters), next(parameters)  # scale 1 and shift 0
        axes = (0, *range(2, z.ndim)) if normalization == "batch" else tuple(range(1, z.ndim))
        return (z - z.mean(axes, keepdims=True)) / np.sqrt(z.var(axes, keepdims=True) + 1e-5)

    h = np.tanh(layer(_inputs(shape).double().numpy()))
    for _ in range(2):
        branch = layer(np.tanh(layer(h)))
        h = np.tanh(h + branch if skip else branch)
    h = h.reshape(6, 4, -1).mean(2)
    expected = h @ next(parameters).T + next(parameters)
    assert not list(parameters)
    np.testing.assert_allclose(module(_inputs(shape).double()).detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_a_skip_connection_changes_the_function_and_not_the_start(normalization: str) -> None:
    with_skip, without = (_build(ResNet(skip=skip, normalization=normalization)) for skip in (True, False))
    assert [k for k, _ in with_skip.named_parameters()] == [k for k, _ in without.named_parameters()]
    assert torch.equal(_theta(with_skip), _theta(without))
    assert not torch.allclose(with_skip(_inputs((1, 8, 8))), without(_inputs((1, 8, 8))))


def _normalized(h: np.ndarray) -> np.ndarray:
    """Layer normalization with scale 1 and shift 0."""
    return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_transformer_is_its_equation(tied: bool, heads: int) -> None:
    model = Transformer(width=6, heads=heads, layers=2, mlp_ratio=3, tie_weights=tied)
    module = _build(model).double()
    with torch.no_grad():  # biases and scales that are not those of the start would show if they were mixed up
        for number, p in enumerate(module.parameters()):
            if p.ndim >= 2:
                p.normal_(generator=generator(number, "weights"))
    parameters = iter([p.detach().numpy() for p in module.parameters()])
    tokens = _inputs_of(TOKENS)
    embedding, positions = next(parameters), next(parameters)
    assert (embedding.shape, positions.shape) == ((7, 6), (5, 6))
    h = embedding[tokens.numpy()] + positions

    def linear(x: np.ndarray) -> np.ndarray:
        return x @ next(parameters).T + next(parameters)

    for _ in range(2):
        next(parameters), next(parameters)  # scale and shift of the normalization
        query, key, value = np.split(linear(_normalized(h)), 3, axis=-1)
        mixed = np.zeros_like(h)
        for i in range(6):
            for head in np.split(np.arange(6), heads):
                for t in range(5):
                    logits = key[i, : t + 1, head].T @ query[i, t, head] / sqrt(len(head))
                    weights = np.exp(logits) / np.exp(logits).sum()
                    mixed[i, t, head] = weights @ value[i, : t + 1, head].T
        h = h + linear(mixed)
        next(parameters), next(parameters)
        h = h + linear(FUNCTIONS["gelu"](linear(_normalized(h))))
    next(parameters), next(parameters)
    expected = _normalized(h) @ (embedding if tied else next(parameters)).T
    assert not list(parameters)
    np.testing.assert_allclose(module(tokens).detach(), expected, rtol=1e-9, atol=1e-9)


def test_a_later_token_changes_no_earlier_output() -> None:
    module = _build(Transformer(layers=3))
    tokens = _inputs_of(TOKENS)
    before = module(tokens)
    for position in range(5):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % 7
        after = module(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert (after[:, position:] != before[:, position:]).any(dim=(0, 2)).all()


def test_tied_weights_are_one_parameter() -> None:
    tied, free = _build(Transformer(tie_weights=True)), _build(Transformer())
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters()) == 7 * 64
    assert tied.tokens.weight is tied.outputs.weight
    assert [k for k, _ in free.named_parameters() if k not in dict(tied.named_parameters())] == ["outputs.weight"]
    # a start that is near the uniform prediction, tied or not
    assert tied(_inputs_of(TOKENS)).std() < 0.5
    with pytest.raises(UsageError, match=r"tie_weights: 3 outputs cannot share the embedding of 7 tokens"):
        Transformer(tie_weights=True).build(Task((5,), 3, "classes", vocabulary=7), generator(0, "init"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_a_tied_embedding_is_filled_as_the_linear_layer_that_it_is(scheme: str, gain: float) -> None:
    tied = _build(Transformer(tie_weights=True, initialization=scheme, gain=gain))
    assert tied.tokens.weight is tied.outputs.weight
    deviation = {"he": sqrt(2 / 64), "xavier": sqrt(2 / 71), "orthogonal": 1 / 8, "zero": 0, "default": 0.02}[scheme]
    n = tied.tokens.weight.numel()
    spread = 4 / sqrt(2 * n)  # 4 sigma of the deviation of n normal numbers
    assert float(tied.tokens.weight.detach().std()) == pytest.approx(gain * deviation, rel=spread)
    # the embedding of positions stays as drawn
    assert float(tied.positions.weight.detach().std()) == pytest.approx(0.02, rel=4 / sqrt(2 * 5 * 64))


def test_dropout_draws_in_training_alone() -> None:
    module = _build(Transformer(dropout=0.5))
    tokens = _inputs_of(TOKENS)
    state = torch.get_rng_state()
    module.eval()
    assert torch.equal(module(tokens), _build(Transformer())(tokens))  # the same weights as without dropout
    assert torch.equal(torch.get_rng_state(), state)
    module.train()
    assert not torch.equal(module(tokens), module(tokens))
    without = _build(Transformer()).train()
    state = torch.get_rng_state()
    without(tokens)
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_drops_too() -> None:
    module = _build(Transformer(dropout=0.9, layers=1)).train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    assert not torch.equal(module(_inputs_of(TOKENS)), module(_inputs_of(TOKENS)))


def test_heads_share_the_width_out() -> None:
    _, problems = parse(Model, {"name": "transformer", "width": 10, "heads": 4})
    assert [p.message for p in problems] == ["width 10 does not share out among 4 heads; use a multiple of them"]


@pytest.mark.parametrize(
    ("plain", "key"),
    [
        ({"name": "transformer", "dropout": 1.0}, ("dropout",)),
        ({"name": "transformer", "heads": 0}, ("heads",)),
        ({"name": "mlp", "hidden": (64, 0)}, ("hidden", 1)),
        ({"name": "mlp", "activation": "swish"}, ("activation",)),
        ({"name": "cnn", "kernel": 4}, ("kernel",)),
        ({"name": "cnn", "channels": ()}, ("channels",)),
        ({"name": "resnet", "normalization": "group"}, ("normalization",)),
        ({"name": "deep_linear", "depth": 0}, ("depth",)),
        ({"name": "logistic", "bias": 1}, ("bias",)),
    ],
)
def test_fields_out_of_bounds_are_refused(plain: dict[str, object], key: tuple[str | int, ...]) -> None:
    value, problems = parse(Model, plain)
    assert value is None
    assert [p.keys for p in problems] == [key]
