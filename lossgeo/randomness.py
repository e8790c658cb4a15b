"""Independent streams of random numbers, each known by its name.

Initialization, batch order, noise and every (probe, step) draw from a stream of their own, so that adding, removing or
reordering one consumer never moves another. Nothing here or anywhere in lossgeo touches torch's global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

BLOCK = 4096  # numbers of one trial that are drawn at a time: making its generator then costs little a step


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed of the stream with this name: a function of its arguments alone, the same on every machine."""
    key = "\x1f".join([str(seed), *map(str, names)]).encode()
    # 63 bits: torch takes the seed as a signed 64-bit number
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """The stream of `seed` with this name."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *names))


def trial_seed(seed: int, trial: int) -> int:
    """The seed from which a trial of a run draws everything; trial 0 is the run that has no other trials."""
    return seed if trial == 0 else stream_seed(seed, "trial", trial)


class Noise:
    """What is drawn at random while training: by the layers, as dropout does, and by the optimizer.

    The optimizer's numbers are a function of seed, trial and step, so that going on from a step needs no state, and a
    trial's are the same whichever trials run beside it. `running` says which these are, where there are several.
    """

    def __init__(self, seed: int, running: Callable[[], torch.Tensor] | None = None) -> None:
        self.layers = generator(seed, "noise")
        self._seed = seed
        self._running = running
        self._step = 0
        self._blocks: dict[tuple[int, int], tuple[int, torch.Tensor, torch.Tensor]] = {}
        self._call = 0
        self._masks: int | None = None

    def begin(self, step: int) -> None:
        """What is drawn from now on is that of a step."""
        self._step, self._call, self._masks = step, 0, None

    def masks(self) -> int:
        """The seed of what layers draw: one number a step, however often it is asked for."""
        if self._masks is None:
            self._masks = int(torch.randint(2**62, (), generator=self.layers))
        return self._masks

    def normal(self, size: int) -> torch.Tensor:
        """Standard Gaussian numbers, float64, new ones at every call of a step: (size,), or (trials, size)."""
        key, rows = (self._call, size), max(1, BLOCK // size)
        self._call += 1
        number, row = divmod(self._step, rows)
        trials = torch.zeros(1, dtype=torch.int64) if self._running is None else self._running()
        known = self._blocks.get(key)
        if known is None or known[0] != number:
            drawn = [
                torch.randn(
                    rows,
                    size,
                    dtype=torch.float64,
                    generator=generator(trial_seed(self._seed, t), "steps", *key, number),
                )
                for t in trials.tolist()
            ]
            known = self._blocks[key] = (number, trials.clone(), torch.stack(drawn))
        _, of, block = known
        # trials only ever leave, so those that are there now are among those for which the block was drawn
        here = block[torch.searchsorted(of, trials), row]
        return here[0] if self._running is None else here
