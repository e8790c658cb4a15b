"""Where training stands: what an optimizer steps from and a probe measures at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Preconditioner:
    """D of the step theta <- theta - lr D^-1 m that led to a point, a symmetric positive map known by its products.

    `inverse_root` is D^-1/2: curvature as the optimizer meets it is D^-1/2 A D^-1/2.
    """

    product: Map
    inverse_root: Map

    @classmethod
    def diagonal(cls, d: torch.Tensor) -> Self:
        """The map that multiplies coordinate by coordinate with d (P,)."""
        return cls(lambda v: v * d.to(v), lambda v: v * d.to(v).rsqrt())


class Preconditions(Protocol):
    """The optimizer, as far as a measurement needs it."""

    def preconditioner(self, theta: torch.Tensor, state: dict[str, torch.Tensor]) -> Preconditioner:
        """D of the last step taken: theta <- theta - lr D^-1 m."""


@dataclass
class Point:
    """Where training stands; with replicas, where R independent trials stand: theta (R, P) and all of the state alike.

    Probes at a point share what one has computed already with those after it. The values of a probe never depend on
    what is there, only its cost does.
    """

    step: int
    theta: torch.Tensor  # (P,); BatchNorm statistics and other buffers are the landscape's
    state: dict[str, torch.Tensor]  # the optimizer's
    optimizer: Preconditions | None = None
    rates: Callable[[int], float] | None = None  # the learning rate of every step of the training
    last: bool = False  # whether training ends here
    trials: dict[str, torch.Tensor] = field(default_factory=dict)  # of trials, how each ended: see `trials.Trials`
    _shared: tuple[object, Any] | None = field(default=None, init=False, repr=False)

    def shared(self, key: object, build: Callable[[], Any]) -> Any:
        """What the probe before made under this key at this point, else what `build` makes; one thing at a time."""
        if self._shared is None or self._shared[0] != key:
            self._shared = None  # before the next one is built, so that two are never held
            self._shared = (key, build())
        return self._shared[1]

    def forget(self) -> None:
        """Give up what probes have shared: the point goes on."""
        self._shared = None

    def trial(self, number: int) -> Point:
        """One of the trials as a point by itself."""
        state = {name: t[number] if t.ndim else t for name, t in self.state.items()}
        return Point(self.step, self.theta[number].clone(), state, self.optimizer, self.rates, self.last)

    def preconditioner(self) -> Preconditioner:
        """D of the optimizer's last step, the one that led here: theta <- theta - lr D^-1 m.

        Raises:
            ValueError: no optimizer is known here, or it has not taken a step yet.
        """
        if self.optimizer is None:
            raise ValueError("no optimizer is known at this point, so its preconditioner is not")
        return self.optimizer.preconditioner(self.theta, self.state)
