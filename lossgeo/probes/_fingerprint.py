"""A few numbers by which critical points are told apart: points that are one up to a symmetry have the same.

Hidden units can be exchanged, signs turned and idle weights moved, and nothing happens to what a network does. So its
numbers are of what it does: of the derivative of every example's loss by the outputs, which is also blind to a shift of
all of a softmax's inputs. A surface says itself what its symmetries leave of theta.
"""

from __future__ import annotations

import torch

from lossgeo.curvature.local_loss import LocalLoss

FREQUENCIES = (2**0.5, 3**0.5, 5**0.5, 7**0.5)  # of weights that repeat nowhere, one vector of weights a number


def fingerprint(here: LocalLoss, theta: torch.Tensor) -> torch.Tensor:
    """Weighted sums, float64 on the CPU; for a network over the measured examples, relative to the outputs 0.

    Costs a forward pass, and another one the first time.
    """
    invariants = here.landscape.known.invariants
    if invariants is not None:
        return _sums(invariants(theta), 0)
    found, square, seen = torch.zeros(len(FREQUENCIES), dtype=torch.float64), 0.0, 0
    with torch.no_grad():
        for piece, _ in here.pieces():
            outputs = here.outputs(piece.inputs, theta).detach()
            found += _sums(here.loss.gradients(outputs, piece.targets), seen)
            square += float(here.loss.gradients(torch.zeros_like(outputs), piece.targets).square().sum())
            seen += outputs.numel()
    return found / (square**0.5 or 1.0)


def _sums(values: torch.Tensor, begin: int) -> torch.Tensor:
    """Of values that go on from number `begin`, so that chunks add up to the same."""
    flat = values.detach().flatten().double().cpu()
    numbers = torch.arange(begin, begin + len(flat), dtype=torch.float64)
    return torch.stack([(torch.cos(frequency * numbers + frequency) * flat).sum() for frequency in FREQUENCIES])
