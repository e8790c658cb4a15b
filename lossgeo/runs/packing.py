"""A point as the named tensors of a checkpoint, and back: all that going on from there, or measuring there, needs."""

from __future__ import annotations

import torch

from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import Optimizer
from lossgeo.runs.run import Tensors


def packed(landscape: Landscape, point: Point, noise: torch.Generator, memories: dict[str, Memory]) -> Tensors:
    """`theta`, `noise`, `state/<name>` of the optimizer, `buffers/<name>` of the model, `memory/<probe>/<name>`.

    With replicas theta is (R, P), and there is `trials/<name>`.
    """
    groups = {"state": point.state, "buffers": landscape.buffers(), "trials": point.trials}
    groups |= {f"memory/{key}": memory for key, memory in memories.items()}
    tensors = {f"{group}/{name}": t for group, members in groups.items() for name, t in members.items()}
    return {"theta": point.theta, "noise": noise.get_state(), **tensors}


def restored(
    landscape: Landscape,
    step: int,
    tensors: Tensors,
    memories: dict[str, Memory],
    optimizer: Optimizer,
    noise: torch.Generator | None = None,
) -> Point:
    """The point in such tensors; sets the landscape's buffers, the probes' memories and the noise stream to it."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, member = name.rpartition("/")
        groups.setdefault(group, {})[member] = tensor
    landscape.restore(groups.get("buffers", {}))
    if noise is not None:
        noise.set_state(groups[""]["noise"])
    for key, memory in memories.items():
        memories[key] = groups.get(f"memory/{key}", memory)  # one that was not there in training goes on as it is
    theta = groups[""]["theta"].to(landscape.device)
    # what stands beside theta lives where theta lives; counters and the like stay on the CPU
    state = {n: t.to(theta.device) if t.ndim else t for n, t in groups.get("state", {}).items()}
    return Point(step, theta, state, optimizer, trials=groups.get("trials", {}))
