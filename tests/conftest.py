"""One torch thread per test worker: the workers share the cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # after the variable that it reads when it is imported

torch.set_num_threads(1)
