"""A step of a single run, or of many trials side by side.

A single run diverges or goes on. Each of many trials may diverge, escape or be done: the trial is frozen where it
stood, and its row leaves the arithmetic once enough others have gone too, or when all trials are evaluated.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch

from lossgeo.landscapes.landscape import Evaluation, Landscape
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import State, Step
from lossgeo.saddles.saddle import Watch
from lossgeo.tables import Row

LARGEST = sys.float_info.max
LINE = 16  # rows, so that they fill whole cache lines whatever their length
CROWDED = 0.5  # rows leave the arithmetic once so many of them are frozen

RUNNING, ESCAPED, DIVERGED, RETURNED, STOPPED = range(5)
WORDS = ("running", "escaped", "diverged", "returned", "stopped")


def endings(trials: Mapping[str, torch.Tensor]) -> dict[str, dict[str, int]]:
    """Of the trials that have ended, the step of each, by the word for how and by the trial's number."""
    found: dict[str, dict[str, int]] = {}
    for number, (how, step) in enumerate(zip(trials["how"].tolist(), trials["ended"].tolist(), strict=True)):
        if how != RUNNING:
            found.setdefault(WORDS[how], {})[str(number)] = step
    return found


class Trajectory(ABC):
    """A point on its way through the steps, of a single run or of trials."""

    theta: torch.Tensor
    state: State
    loss: float  # the last one seen; of trials, their mean

    @property
    @abstractmethod
    def diverged(self) -> str | None:
        """Why the run diverged; for trials, only once all of them have. None: it has not."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether no run or trial steps any more."""

    @abstractmethod
    def active(self) -> list[int]:
        """The trials that still step, ascending; [0] for a single run."""

    @abstractmethod
    def positions(self) -> torch.Tensor:
        """Where these stand, (K, P)."""

    @abstractmethod
    def watch(self, step: int) -> None:
        """End the trials that have left their saddles, by where they stand before a step."""

    @abstractmethod
    def sync(self) -> None:
        """Write the active rows back into `point`."""

    @abstractmethod
    def close(self, step: int, landscape: Landscape) -> None:
        """End the trials that have left their saddles with the last step."""

    @abstractmethod
    def assess(self, step: int, evaluations: Sequence[Evaluation], met: Sequence[bool]) -> None:
        """End the active trials that diverged by their evaluations, and those that `met` a rule that ends training."""

    @abstractmethod
    def advance(self, taken: Step, step: int) -> bool:
        """Take over a step that was taken at `step`; whether no trial steps any more."""

    @abstractmethod
    def rows(self, taken: Step) -> Iterator[Row]:
        """Loss and gradient norm that the step saw, a row for each active trial."""


class SingleRun(Trajectory):
    """A run by itself."""

    def __init__(self, point: Point, limit: float, loss: float) -> None:
        self.point = point
        self.theta, self.state = point.theta, point.state
        self.limit = limit
        self.loss = loss
        self._stopped = False
        self._diverged: str | None = None

    @property
    def diverged(self) -> str | None:
        return self._diverged

    @property
    def done(self) -> bool:
        return self._stopped or self._diverged is not None

    def active(self) -> list[int]:
        return [0]

    def positions(self) -> torch.Tensor:
        return self.theta[None]

    def watch(self, step: int) -> None:
        pass  # nobody asked when a run by itself leaves anything

    def sync(self) -> None:
        pass  # every step is taken in the point itself

    def close(self, step: int, landscape: Landscape) -> None:
        pass

    def assess(self, step: int, evaluations: Sequence[Evaluation], met: Sequence[bool]) -> None:
        self._judge("training", evaluations[0].loss, step)
        self._stopped = self._stopped or met[0]

    def advance(self, taken: Step, step: int) -> bool:
        self.theta, self.state = self.point.theta, self.point.state = taken.theta, taken.state
        self.loss = taken.loss.item()
        self._judge("batch", self.loss, step)
        if taken.ended is not None and bool(taken.ended):
            self._stopped = True
        return self.done

    def _judge(self, which: str, loss: float, step: int) -> None:
        if not loss <= self.limit and self._diverged is None:  # NaN compares false
            self._diverged = f"{which} loss {loss:.4g} at step {step}, not below the limit of {self.limit:.4g}"

    def rows(self, taken: Step) -> Iterator[Row]:
        norm = float(torch.linalg.vector_norm(taken.gradient))
        yield {"replica": 0, "loss": self.loss, "gradient_norm": norm}


class Trials(Trajectory):
    """R trials.

    `point` holds all of them; `theta` and `state` hold a row for each that is computed, `computed` (K,) their numbers.
    Of these `over` says which have ended since the rows were taken up. With `exact` they are filled up to whole cache
    lines by copies of the last, which count as over: kernels compute what is left behind the last vector register in
    another way, and a trial's bits would depend on how many stand before it.

    `point.trials` says how each ended: `how` (R,), `ended` (R,) the step, -1 while it runs, and `beyond` (R, S), the
    first step at which it was beyond each of S saddles, -1 before.
    """

    def __init__(self, point: Point, limits: torch.Tensor, loss: float, watch: Watch | None, exact: bool) -> None:
        self.point = point
        self.loss = loss
        self._limits = limits
        self._watch = watch
        self._exact = exact
        if not point.trials:
            trials, saddles = len(point.theta), 0 if watch is None else len(watch.saddles)
            point.trials = {
                "how": torch.zeros(trials, dtype=torch.int64),
                "ended": torch.full((trials,), -1),
                "beyond": torch.full((trials, saddles), -1),
            }
        self._take_up()

    @property
    def done(self) -> bool:
        return not bool((self.point.trials["how"] == RUNNING).any())

    @property
    def diverged(self) -> str | None:
        how = self.point.trials["how"]
        return f"all {len(how)} trials diverged" if bool((how == DIVERGED).all()) else None

    def active(self) -> list[int]:
        return self._numbers

    def positions(self) -> torch.Tensor:
        return self.theta[: len(self._numbers)]

    def _take_up(self) -> None:
        """Rows of those that still run, taken out of the point."""
        (running,) = torch.nonzero(self.point.trials["how"] == RUNNING, as_tuple=True)
        self._numbers: list[int] = running.tolist()
        self.computed = torch.cat([running, running[-1:].expand(-len(running) % LINE)]) if self._exact else running
        self.theta = self.point.theta[self.computed]
        self.state = {name: t[self.computed] if t.ndim else t for name, t in self.point.state.items()}
        self._here = self._limits[self.computed].to(self.theta.device)
        self.over = torch.arange(len(self.computed), device=self.theta.device) >= len(running)
        self._frozen = 0

    def sync(self) -> None:
        """Put the rows back into the point, so that all of it is of this step; the frozen ones stay as they are."""
        moving = ~self.over
        rows = self.computed[moving.cpu()]
        self.point.theta[rows] = self.theta[moving]
        for name, value in self.state.items():
            if value.ndim == 0:
                self.point.state[name] = value
                continue
            if name not in self.point.state:  # an optimizer may begin its state with the first step
                self.point.state[name] = value.new_zeros(len(self.point.theta), *value.shape[1:])
            self.point.state[name][rows] = value[moving]
        self._take_up()

    def watch(self, step: int) -> None:
        if self._frozen > CROWDED * len(self._numbers):
            self.sync()
        self._look(step, None)

    def close(self, step: int, landscape: Landscape) -> None:
        self._look(step, None)
        if self._watch is not None and self._watch.escape.loss_drop is not None and self._numbers:
            losses = [e.loss for e in landscape.evaluations(self.theta, landscape.train)]
            self._look(step, torch.tensor(losses, dtype=torch.float64, device=self.theta.device))
        self.sync()

    def _look(self, step: int, losses: torch.Tensor | None) -> None:
        """Who has left a saddle, by where all stand before the step, or by the losses that it saw."""
        if self._watch is None or not self._numbers:
            return
        beyond = self._watch.beyond(self.theta, losses)
        if beyond is None or not bool(beyond.any()):
            return
        moving = ~self.over
        rows, beyond = self.computed[moving.cpu()], beyond[moving].cpu()
        first = self.point.trials["beyond"][rows]
        first[beyond & (first < 0)] = step
        self.point.trials["beyond"][rows] = first
        gone = torch.zeros_like(self.over)
        gone[moving] = (first >= 0).all(1).to(gone.device)
        self._freeze(gone, ESCAPED, step)

    def assess(self, step: int, evaluations: Sequence[Evaluation], met: Sequence[bool]) -> None:
        for number, evaluation, stops in zip(list(self._numbers), evaluations, met, strict=True):
            broken = not evaluation.loss <= float(self._limits[number]) or evaluation.loss < -LARGEST
            if broken or stops:
                self.point.trials["how"][number] = DIVERGED if broken else STOPPED
                self.point.trials["ended"][number] = step
        self._take_up()  # every row was laid down before it was evaluated

    def _freeze(self, which: torch.Tensor, how: int, step: int) -> None:
        """End some of the rows where they stand."""
        new = which & ~self.over
        if not bool(new.any()):
            return
        rows = self.computed[new.cpu()]
        self.point.theta[rows] = self.theta[new]
        self.point.trials["how"][rows] = how
        self.point.trials["ended"][rows] = step
        self.over |= new
        self._frozen += len(rows)

    def advance(self, taken: Step, step: int) -> bool:
        self.theta, self.state = taken.theta, taken.state
        self._freeze(~(taken.loss <= self._here) | (taken.loss < -LARGEST), DIVERGED, step)
        self._look(step, taken.loss)
        if taken.ended is not None:
            self._freeze(taken.ended, RETURNED, step + 1)
        return self._frozen == len(self._numbers)

    def rows(self, taken: Step) -> Iterator[Row]:
        norms = torch.linalg.vector_norm(taken.gradient, dim=-1)
        columns = zip(self.computed.tolist(), taken.loss.tolist(), norms.tolist(), self.over.tolist(), strict=True)
        rows = [{"replica": r, "loss": loss, "gradient_norm": norm} for r, loss, norm, over in columns if not over]
        self.loss = sum(row["loss"] for row in rows) / len(rows) if rows else self.loss
        yield from rows
