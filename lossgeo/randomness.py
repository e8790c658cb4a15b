"""Independent streams of random numbers, each known by its name.

Initialization, batch order, noise and every (probe, step) draw from a stream of their own, so that adding, removing or
reordering one consumer never moves another. Nothing here or anywhere in lossgeo touches torch's global generator.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """The stream of `seed` with this name: a function of its arguments alone, the same on every machine."""
    key = "\x1f".join([str(seed), *map(str, names)]).encode()
    # 63 bits: torch takes the seed as a signed 64-bit number
    number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
    return torch.Generator(device=device).manual_seed(number)
