"""What an update costs: our optimizer and schedule against torch.optim and lr_scheduler, gradients given.

    python -m tests.bench.bench_optimizers

One process, one thread. The contenders take turns within a round, so that a change in the machine's speed meets all of
them alike. Printed are medians over rounds: of our microseconds a step, and of their time over ours within a round, so
above 1 we are cheaper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.adam import Adam
from lossgeo.optimizers.adamw import AdamW
from lossgeo.optimizers.rmsprop import RMSprop
from lossgeo.optimizers.schedules.cosine import Cosine
from lossgeo.optimizers.sgd import SGD

MLPS = {"64-64-64-10": (64, 64, 64, 10), "784-512-512-10": (784, 512, 512, 10)}
OPTIMIZERS: list[tuple[Optimizer, type[torch.optim.Optimizer]]] = [
    (SGD(), torch.optim.SGD),
    (SGD(momentum=0.9), torch.optim.SGD),
    (SGD(momentum=0.9, nesterov=True, weight_decay=1e-4), torch.optim.SGD),
    (Adam(), torch.optim.Adam),
    (Adam(amsgrad=True, weight_decay=1e-4), torch.optim.Adam),
    (AdamW(), torch.optim.AdamW),
    (RMSprop(), torch.optim.RMSprop),
    (RMSprop(centered=True, momentum=0.9), torch.optim.RMSprop),
]
# on a CPU torch.optim takes "loop" unless told; RMSprop has no fused form
MODES: dict[str, dict[str, bool]] = {"loop": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
HORIZON = 10**7  # steps of the schedule: so many that the rate hardly moves while we measure
ROUNDS = 31
ROUND_SECONDS = 0.01  # of each contender in a round: short, so that neighbors in time share the machine's state


class Given:
    """A landscape whose gradient costs nothing."""

    def __init__(self, gradient: torch.Tensor) -> None:
        self.answer = torch.zeros(()), gradient

    def gradient(self, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return self.answer


def ours(optimizer: Optimizer, tensors: list[torch.Tensor], gradients: list[torch.Tensor]) -> Callable[[int], None]:
    theta = torch.cat([t.flatten() for t in tensors])
    loss: Any = Given(torch.cat([g.flatten() for g in gradients]))
    schedule = Cosine()
    state, start = optimizer.init(loss, theta), 0

    def advance(steps: int) -> None:
        nonlocal theta, state, start
        for step in range(start, start + steps):
            rate = optimizer.lr * schedule.factor(step, HORIZON)
            theta, state, *_ = optimizer.step(loss, theta, state, rate)
        start += steps

    return advance


def theirs(
    kind: type[torch.optim.Optimizer],
    options: dict[str, Any],
    tensors: list[torch.Tensor],
    gradients: list[torch.Tensor],
) -> Callable[[int], None]:
    parameters = [torch.nn.Parameter(t.clone()) for t in tensors]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer = kind(parameters, **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, HORIZON)

    def advance(steps: int) -> None:
        for _ in range(steps):
            optimizer.step()
            scheduler.step()

    return advance


def seconds(advance: Callable[[int], None], steps: int) -> float:
    start = time.perf_counter()
    advance(steps)
    return (time.perf_counter() - start) / steps


def row(
    optimizer: Optimizer, kind: type[torch.optim.Optimizer], widths: tuple[int, ...]
) -> tuple[float, dict[str, float]]:
    """Our seconds a step, and how many times as many each of theirs takes."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator) for i, o in pairwise(widths) for s in ((o, i), (o,))]
    gradients = [1e-2 * torch.randn(t.shape, generator=generator) for t in tensors]
    options = optimizer.model_dump()
    contenders = {"ours": ours(optimizer, tensors, gradients)}
    for mode, switch in MODES.items():
        if mode != "fused" or kind is not torch.optim.RMSprop:
            contenders[mode] = theirs(kind, {**options, **switch}, tensors, gradients)
    steps = {name: math.ceil(ROUND_SECONDS / seconds(advance, 20)) for name, advance in contenders.items()}
    rounds = [{name: seconds(advance, steps[name]) for name, advance in contenders.items()} for _ in range(ROUNDS)]
    ratios = {mode: median(r[mode] / r["ours"] for r in rounds) for mode in contenders if mode != "ours"}
    return median(r["ours"] for r in rounds), ratios


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, float32; {ROUNDS} rounds")
    print(f"{'MLP':15} {'optimizer':55} {'ours, us':>9} " + " ".join(f"{mode:>8}" for mode in MODES))
    for mlp, widths in MLPS.items():
        for optimizer, kind in OPTIMIZERS:
            cost, ratios = row(optimizer, kind, widths)
            changed = ", ".join(f"{key}={getattr(optimizer, key)}" for key in sorted(optimizer.model_fields_set))
            cells = " ".join(f"{ratios[mode]:8.2f}" if mode in ratios else f"{'-':>8}" for mode in MODES)
            print(f"{mlp:15} {f'{type(optimizer).__name__}({changed})':55} {cost * 1e6:9.1f} {cells}", flush=True)


if __name__ == "__main__":
    main()
