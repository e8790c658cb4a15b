"""How long Lanczos has to wait before it stops: `python tests/bench/bench_stopping.py`, a minute.

Spectra with close neighbours (a bulk, eight outliers that differ by 0.2% or more, one negative end), 300 a cell: how
often a returned value is off by more than the tolerance, and the mean number of products, when the residuals have to
stay small for one step (the plain residual rule), two, three or four.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_spectral import drawn, matrix, run

from lossgeo.spectral import lanczos

SPECTRA = 300
CELLS = [(top, bottom, tolerance) for tolerance in (1e-2, 1e-3) for top, bottom in ((1, 0), (5, 0), (1, 1), (5, 1))]


def main() -> None:
    print("wrong of 300 / mean products, residuals small for 1, 2, 3, 4 steps")
    for top, bottom, tolerance in CELLS:
        shown = []
        for held in (1, 2, 3, 4):
            lanczos.HELD = held
            wrong, products = 0, 0
            for seed in range(SPECTRA):
                spectrum = np.sort(drawn(seed, spread=0.002))
                found = run(matrix(spectrum, seed=seed), top, bottom, tolerance, seed=seed + 1000)
                error = np.abs(found.top.values - spectrum[::-1][:top]) > tolerance * spectrum[::-1][:top]
                floor = tolerance * np.maximum(np.abs(spectrum[:bottom]), lanczos.FLOOR * spectrum[-1])
                wrong += bool(error.any() or (np.abs(found.bottom.values - spectrum[:bottom]) > floor).any())
                products += found.products
            shown.append(f"{wrong:3} / {products / SPECTRA:4.1f}")
        print(f"top {top} bottom {bottom} at {tolerance:g}:  {'   '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
