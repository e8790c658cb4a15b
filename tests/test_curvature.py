"""Products and extreme eigenvalues of the Hessian against a dense one, and what a measurement must not touch."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dense import dense_hessian, written_out
from torch import nn

from lossgeo.errors import UsageError
from lossgeo.finding import find
from lossgeo.landscape import Landscape, Point
from lossgeo.losses import Loss
from lossgeo.models import Model
from lossgeo.operators import hessian
from lossgeo.operators.hessian import Hessian, free_memory, graph_bytes
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.randomness import generator
from lossgeo.spectral.lanczos import lanczos
from lossgeo.task import Examples, Task

N = 37  # prime: no chunk size divides it
CLASSES = 4

# small networks of every kind that has traps of its own; (model, its settings, shape of an input)
NETWORKS = {
    "mlp": ("mlp", {"hidden": (7, 5)}, (6,)),
    "cnn": ("cnn", {"channels": (3, 4), "activation": "tanh"}, (1, 8, 8)),
    "resnet": ("resnet", {"width": 4, "blocks": 1, "normalization": "batch", "activation": "tanh"}, (1, 6, 6)),
}


def data(shape: tuple[int, ...], n: int = N, seed: int = 0) -> Examples:
    stream = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *shape, generator=stream, dtype=torch.float64)
    return Examples(inputs, torch.randint(0, CLASSES, (n,), generator=stream))


def landscape_of(
    network: str, loss: str = "cross_entropy", chunk: int | None = None, dtype: torch.dtype = torch.float64
) -> Landscape:
    name, settings, shape = NETWORKS[network]
    task = Task(shape, CLASSES, "classes")
    module = find(Model, name)(**settings).build(task, generator(3, "initialization"))
    with torch.no_grad():  # statistics that a wrong mode would show
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
    return Landscape(module, find(Loss, loss)(), task, data(shape), data(shape, 11, 1), dtype, chunk=chunk)


def ends(landscape: Landscape, batch_norm: str = "eval", tolerance: float = 1e-10) -> tuple[float, float]:
    operator = Hessian().at(landscape, landscape.start(), landscape.train, batch_norm)
    found = lanczos(operator, 1, 1, tolerance, 10_000, generator(0, "test"))
    assert found.top.converged.all()
    assert found.bottom.converged.all()
    return float(found.top.values[0]), float(found.bottom.values[0])


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("network", NETWORKS)
def test_both_ends_equal_those_of_a_dense_hessian(network: str, loss: str, batch_norm: str) -> None:
    landscape = landscape_of(network, loss, chunk=10)
    reference = copy.deepcopy(landscape.module).eval()
    examples = data(NETWORKS[network][2])
    dense = dense_hessian(written_out(reference) if batch_norm == "batch" else reference, loss, *examples)
    spectrum = np.linalg.eigvalsh(dense.numpy())
    top, bottom = ends(landscape, batch_norm)
    # the issue asks for 1e-6; both routes are float64, so what is left is roundoff of the two sums
    assert top == pytest.approx(spectrum[-1], rel=1e-9, abs=1e-11)
    assert bottom == pytest.approx(spectrum[0], rel=1e-9, abs=1e-11 * spectrum[-1])


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("network", NETWORKS)
def test_any_chunk_size_gives_the_same_product_loss_and_gradient(network: str, loss: str) -> None:
    whole = landscape_of(network, loss, chunk=N)
    vector = torch.randn(whole.size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    product = Hessian().at(whole, whole.start(), whole.train, "eval") @ vector
    evaluation = whole.evaluate(whole.start(), whole.train)
    gradient = whole.mean_gradient(whole.start(), whole.train)
    for chunk in (1, 2, 10, 36):
        ragged = landscape_of(network, loss, chunk=chunk)
        other = Hessian().at(ragged, ragged.start(), ragged.train, "eval") @ vector
        assert (other - product).norm() <= 1e-12 * product.norm()
        assert ragged.evaluate(ragged.start(), ragged.train).loss == pytest.approx(evaluation.loss, rel=1e-13)
        assert ragged.evaluate(ragged.start(), ragged.train).accuracy == evaluation.accuracy
        assert (ragged.mean_gradient(ragged.start(), ragged.train) - gradient).norm() <= 1e-12 * gradient.norm()
        assert ends(ragged) == pytest.approx(ends(whole), rel=1e-9)


def test_rebuilt_graphs_give_the_products_of_kept_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    landscape = landscape_of("cnn", chunk=10)
    vector = torch.randn(landscape.size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    kept = Hessian().at(landscape, landscape.start(), landscape.train, "eval") @ vector
    # room for one chunk of the four
    monkeypatch.setattr(hessian, "free_memory", lambda device: 1)
    operator = Hessian().at(landscape, landscape.start(), landscape.train, "eval")
    for _ in range(2):
        assert ((operator @ vector) - kept).norm() <= 1e-14 * kept.norm()


def test_the_memory_of_a_graph_grows_with_the_examples_behind_it() -> None:
    sizes = {}
    for n in (8, 16):
        landscape = landscape_of("mlp", chunk=n)
        loss = next(landscape.losses(landscape.start(), landscape.train))
        sizes[n] = graph_bytes(landscape.gradient_graph(loss))
    # inputs, two hidden layers and the outputs in float64 are the least that a graph over n examples can hold
    least = 8 * (6 + 7 + 5 + CLASSES)
    assert sizes[8] >= 8 * least
    assert sizes[16] - sizes[8] >= 8 * least


def test_free_memory_is_what_the_machine_says() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) <= total


def test_a_hessian_refuses_to_be_used_after_theta_moved() -> None:
    landscape = landscape_of("mlp")
    theta = landscape.start()
    operator = Hessian().at(landscape, theta, landscape.train, "eval")
    theta.add_(1e-3)
    with pytest.raises(ValueError, match="theta has changed"):
        operator @ torch.ones(landscape.size, dtype=torch.float64)


def test_products_take_one_vector_or_columns_and_are_counted() -> None:
    landscape = landscape_of("mlp")
    operator = Hessian().at(landscape, landscape.start(), landscape.train, "eval")
    vectors = torch.randn(landscape.size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = operator @ vectors
    assert operator.products == 3
    assert torch.equal(together[:, 1], operator @ vectors[:, 1])
    left, right = vectors[:, 0], vectors[:, 2]
    assert float(left @ (operator @ right)) == pytest.approx(float(right @ (operator @ left)), rel=1e-12)
    with pytest.raises(ValueError, match="takes"):
        operator @ vectors[:-1]


def test_frozen_and_unused_parameters_give_zero_rows() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(6, 5).requires_grad_(False)
            self.used = nn.Linear(5, CLASSES)
            self.unused = nn.Linear(2, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.used(torch.tanh(self.frozen(inputs)))

    torch.manual_seed(0)
    landscape = Landscape(
        Odd(), find(Loss, "mse")(), Task((6,), CLASSES, "classes"), data((6,)), data((6,)), torch.float64, chunk=10
    )
    sizes = [p.numel() for p in landscape.module.parameters()]
    mask = torch.cat([torch.full((n,), i in (2, 3)) for i, n in enumerate(sizes)])
    product = Hessian().at(landscape, landscape.start(), landscape.train, "eval") @ torch.ones(len(mask)).double()
    assert (product[~mask] == 0).all()
    assert (product[mask] != 0).all()
    gradient = landscape.gradient(landscape.start(), landscape.train, torch.Generator())[1]
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any()


# --- watching does not disturb ---------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Batch norm and dropout, on a flat input: everything that a careless probe would move."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


@pytest.fixture
def noisy() -> Iterator[Landscape]:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    yield Landscape(
        Noisy(), find(Loss, "cross_entropy")(), Task((6,), CLASSES, "classes"), data((6,)), data((6,)), torch.float32
    )
    torch.random.set_rng_state(state)


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
@pytest.mark.parametrize("probe", [Eigenvalues(top=2), Trace(vectors=4)], ids=["eigenvalues", "trace"])
def test_a_probe_leaves_everything_as_it_was(noisy: Landscape, probe: Eigenvalues | Trace, batch_norm: str) -> None:
    module = noisy.module
    theta = noisy.start()
    noisy.gradient(theta, noisy.train.rows(slice(0, 8)), torch.Generator())
    module.layers[1].eval()  # an unusual flag, which has to survive
    next(module.parameters()).grad = torch.ones(8, 6)
    flags = [m.training for m in module.modules()]
    before = {
        "theta": theta.clone(),
        "buffers": noisy.buffers(),
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # the global state is what may not move
        "python": random.getstate(),
    }
    rows, _ = type(probe)(**{**dict(probe), "batch_norm": batch_norm}).rows(noisy, Point(5, theta, {}), {}, 0)
    assert [row["failure"] for row in rows if "failure" in row] == []
    assert torch.equal(theta, before["theta"])
    assert all(torch.equal(b, before["buffers"][n]) for n, b in noisy.buffers().items())
    assert [m.training for m in module.modules()] == flags
    assert all(m.track_running_stats for m in module.modules() if isinstance(m, nn.BatchNorm1d))
    assert torch.equal(next(module.parameters()).grad, torch.ones(8, 6))
    assert torch.equal(torch.random.get_rng_state(), before["torch"])
    assert (np.random.get_state()[1] == before["numpy"]).all()
    assert random.getstate() == before["python"]


def test_dropout_is_off_in_probes_and_follows_the_given_stream_in_training(noisy: Landscape) -> None:
    theta = noisy.start()
    values = {noisy.evaluate(theta, noisy.train).loss for _ in range(3)}
    assert len(values) == 1
    before = torch.random.get_rng_state()
    batch = noisy.train.rows(slice(0, 8))
    first, again, other = (noisy.gradient(theta, batch, torch.Generator().manual_seed(s))[1].clone() for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_asking_about_another_theta_moves_neither() -> None:
    landscape = landscape_of("mlp")
    mine, other = landscape.start(), landscape.start() + 0.1
    here = landscape.evaluate(mine, landscape.train)
    there = landscape.evaluate(other, landscape.train)
    assert here != there
    assert torch.equal(mine, landscape.start())
    assert torch.equal(other, landscape.start() + 0.1)
    mine.add_(0.1)  # in place, as an optimizer does: the landscape sees it without being told
    assert landscape.evaluate(mine, landscape.train) == there


def test_batch_statistics_are_those_of_the_whole_set_and_move_nothing() -> None:
    landscape = landscape_of("resnet", chunk=5)
    before = landscape.buffers()
    theta = landscape.start()
    whole = landscape.outputs(theta, landscape.train.inputs, "batch")
    reference = copy.deepcopy(landscape.module).train()
    with torch.no_grad():
        assert torch.equal(whole, reference(landscape.train.inputs))
    assert all(torch.equal(b, before[n]) for n, b in landscape.buffers().items())
    assert not torch.allclose(whole, landscape.outputs(theta, landscape.train.inputs, "eval"))


def test_a_batch_that_the_model_cannot_train_on_is_refused_before_training(noisy: Landscape) -> None:
    before, state = noisy.buffers(), torch.random.get_rng_state()
    with pytest.raises(UsageError, match=r"cannot train on a batch of 1.*change batch_size"):
        noisy.rehearse(1)  # a batch norm has no variance of one example
    assert noisy.rehearse(2)
    assert all(torch.equal(b, before[n]) for n, b in noisy.buffers().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not landscape_of("mlp").rehearse(1)


def test_a_model_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"returns \(2, 3\).*wants \(2, 4\)"):
        Landscape(nn.Linear(6, 3), find(Loss, "mse")(), Task((6,), CLASSES, "classes"), data((6,)), data((6,)))


# --- probes ----------------------------------------------------------------------------------------------------------


def test_eigenvalue_rows_carry_ranks_residuals_and_cost() -> None:
    landscape = landscape_of("mlp", chunk=10)
    reference = np.linalg.eigvalsh(
        dense_hessian(landscape.module.eval(), "cross_entropy", landscape.train.inputs, landscape.train.targets).numpy()
    )
    rows, _ = Eigenvalues(top=3, bottom=2, tolerance=1e-8).rows(landscape, Point(7, landscape.start(), {}), {}, 0)
    assert [(r["end"], r["rank"], r["step"]) for r in rows] == [
        *(("top", k, 7) for k in range(3)),
        *(("bottom", k, 7) for k in range(2)),
    ]
    expected = [*reference[::-1][:3], *reference[:2]]
    for row, value in zip(rows, expected, strict=True):
        assert row["converged"]
        assert abs(row["eigenvalue"] - value) <= row["residual"] + 1e-12
    assert len({row["matvecs"] for row in rows}) == 1
    assert 5 <= rows[0]["matvecs"] <= landscape.size


def test_a_probe_depends_on_seed_and_step_and_not_on_other_probes() -> None:
    landscape = landscape_of("mlp")

    def value(seed: int, step: int) -> float:
        rows, _ = Trace(vectors=4, tolerance=0).rows(landscape, Point(step, landscape.start(), {}), {}, seed)
        return float(rows[0]["value"])

    assert value(0, 5) == value(0, 5)
    assert len({value(0, 5), value(1, 5), value(0, 6)}) == 3


def test_samples_take_the_first_examples_of_the_split() -> None:
    landscape = landscape_of("mlp")
    few = Eigenvalues(samples=9, tolerance=1e-9)
    rows, _ = few.rows(landscape, Point(0, landscape.start(), {}), {}, 0)
    subset = landscape.train.rows(slice(0, 9))
    dense = dense_hessian(landscape.module.eval(), "cross_entropy", subset.inputs, subset.targets)
    assert rows[0]["samples"] == 9
    assert rows[0]["eigenvalue"] == pytest.approx(np.linalg.eigvalsh(dense.numpy())[-1], rel=1e-9)


def test_more_samples_than_examples_are_all_of_them() -> None:
    landscape = landscape_of("mlp")
    rows, _ = Trace(samples=N + 1, vectors=4).rows(landscape, Point(0, landscape.start(), {}), {}, 0)
    assert rows[0]["samples"] == N


def test_a_failure_is_a_row_with_its_reason() -> None:
    landscape = landscape_of("mlp")
    broken, memory = Eigenvalues().rows(
        landscape, Point(3, landscape.start() * float("nan"), {}), {"kept": torch.ones(1)}, 0
    )
    assert [row["failure"] for row in broken] == ["ArithmeticError: a product with the operator is not finite"]
    assert broken[0]["step"] == 3
    assert "eigenvalue" not in broken[0]
    assert list(memory) == ["kept"]
