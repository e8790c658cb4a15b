"""How much memory a measurement may take, where nobody has said it."""

from __future__ import annotations

import os

import torch


def memory_budget(device: torch.device) -> int:
    """Bytes: half of what is free, since a guess of what a graph takes can be short."""
    return free_memory(device) // 2


def free_memory(device: torch.device) -> int:
    """Bytes that a device can still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:  # Linux: what can be had without swapping, page cache included
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
