"""The spectrum report: its numbers against spectra that were set, its notes, and what it makes of missing tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from lossgeo import formats
from lossgeo.curvature.spectral.spectral_density import SpectralDensity
from lossgeo.errors import UsageError
from lossgeo.reports import Summary
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.spectrum import Spectrum
from lossgeo.tables import Row
from tests.support.synthetic import (
    curvature,
    density,
    eigenvalue,
    eigenvalues,
    id_of,
    network,
    recipe,
    spectral,
    trace,
    write_run,
)

CLASSES = {"name": "digits", "train": 1000, "test": 797, "outputs": 10}
Tables = dict[str, list[Row]]


def joined(*tables: Tables) -> Tables:
    names = dict.fromkeys(name for one in tables for name in one)
    return {name: [row for one in tables for row in one.get(name, [])] for name in names}


def report(tmp_path: Path, *tables: Tables, **fields: Any) -> Summary:
    """The report on one run for each of the tables."""
    for number, rows in enumerate(tables):
        write_run(tmp_path, id_of(number), recipe(seed=number), rows, data=CLASSES)
    return Spectrum(**fields).render(Study.open([tmp_path]))


def notes(answer: Summary) -> str:
    return " ".join(answer.notes)


def test_a_zero_hessian_is_all_zero_and_nothing_of_it_negative(tmp_path: Path) -> None:
    (row,) = report(tmp_path, spectral(200, np.zeros(50))).rows
    assert (row["mass_near_zero"], row["negative_mass"]) == (1.0, 0.0)
    assert row["negative_mass_low"] == 0.0


def test_the_numbers_are_those_of_the_spectrum(tmp_path: Path) -> None:
    spectrum = network()
    answer = report(tmp_path, spectral(200, spectrum))
    (row,) = answer.rows
    assert list(row) == [
        *("run", "step", "operator", "parameters", "size", "samples", "probe"),
        *("lambda_max", "lambda_max_low", "lambda_max_high", "lambda_min", "lambda_min_low", "lambda_min_high"),
        *("trace", "trace_low", "trace_high", "frobenius", "frobenius_low", "frobenius_high"),
        *("outliers", "gap", "edge", "gap_error", "edge_error"),
        *("outliers_by_mass", "outliers_by_mass_low", "outliers_by_mass_high"),
        *("mass_near_zero", "mass_near_zero_low", "mass_near_zero_high"),
        *("negative_mass", "negative_mass_low", "negative_mass_high", "vectors", "nodes"),
    ]
    assert (row["step"], row["operator"], row["parameters"]) == (200, "hessian", "*")
    assert (row["size"], row["samples"], row["vectors"], row["nodes"]) == (600, 1000, 4, 40)
    assert (row["lambda_max"], row["lambda_min"]) == (spectrum.max(), spectrum.min())
    assert (row["lambda_max_low"], row["lambda_max_high"]) == pytest.approx((4 - 1e-4, 4 + 1e-4))
    assert (row["trace"], row["frobenius"]) == pytest.approx((spectrum.sum(), np.linalg.norm(spectrum)))
    norm = np.sqrt([0.98, 1.02]) * row["frobenius"]
    assert (row["frobenius_low"], row["frobenius_high"]) == pytest.approx(tuple(norm))
    assert row["outliers"] == 10
    assert row["gap"] == pytest.approx(1.0 / spectrum[-11])
    assert row["gap_error"] == pytest.approx(row["gap"] * 1e-4 * (1 + 1 / spectrum[-11]))  # residuals are 1e-4
    assert row["outliers_by_mass"] == pytest.approx(10, abs=1e-3)
    for name, truth in (
        ("outliers_by_mass", 10),
        ("mass_near_zero", np.mean(np.abs(spectrum) <= 0.04)),
        ("negative_mass", np.mean(spectrum <= -0.04)),
    ):
        assert row[f"{name}_low"] <= truth + 1e-9
        assert truth <= row[f"{name}_high"]
    assert "above the widest gap" in notes(answer)
    assert "negative_mass: below minus that" in notes(answer)
    assert len(answer.notes) == 2, "nothing speaks against these numbers"


def test_the_cut_near_zero_can_be_moved(tmp_path: Path) -> None:
    (row,) = report(tmp_path, spectral(200, network()), near_zero=0.2).rows
    assert row["mass_near_zero"] == pytest.approx(np.mean(np.abs(network()) <= 0.8), abs=1e-6)
    assert row["negative_mass"] == pytest.approx(0.0, abs=1e-6)


def test_without_a_density_there_are_no_masses(tmp_path: Path) -> None:
    (row,) = report(tmp_path, {"eigenvalues": spectral(200, network())["eigenvalues"]}).rows
    assert (row["lambda_max"], row["outliers"], row["size"]) == (4.0, 10, 600)
    for name in ("trace", "frobenius", "outliers_by_mass", "mass_near_zero", "negative_mass", "vectors", "nodes"):
        assert row[name] is None


def test_a_density_alone_knows_its_own_largest_eigenvalues(tmp_path: Path) -> None:
    answer = report(tmp_path, {"density": density(200, network(), deflate=12)})
    (row,) = answer.rows
    assert row["lambda_max"] is row["lambda_min"] is row["trace"] is None
    assert row["outliers"] == 10
    assert row["mass_near_zero_low"] <= np.mean(np.abs(network()) <= 0.04) <= row["mass_near_zero_high"]
    assert "measure `eigenvalues` with `top: 21`" in notes(answer)
    assert report(tmp_path / "none", {"density": density(200, network(), deflate=0)}).rows[0]["outliers"] is None


def test_a_trace_alone(tmp_path: Path) -> None:
    answer = report(tmp_path, {"trace": [trace(200, 12.0, 16.0)]})
    assert (answer.rows[0]["trace"], answer.rows[0]["frobenius"]) == (12.0, 4.0)
    assert answer.draw is None


def test_a_bracket_over_data_comes_before_the_solvers_error(tmp_path: Path) -> None:
    rows = eigenvalues(200, network(), 2, samples=256, low=3.0, high=4.5)
    (row,) = report(tmp_path, {"eigenvalues": rows}).rows
    assert (row["lambda_max_low"], row["lambda_max_high"], row["samples"]) == (3.0, 4.5, 256)


def test_a_sampled_operator_adds_its_own_error(tmp_path: Path) -> None:
    (row,) = report(tmp_path, {"eigenvalues": eigenvalues(200, network(), 1, stderr=0.5)}).rows
    assert row["lambda_max_high"] == pytest.approx(4 + 1e-4 + 1.96 * 0.5)


@pytest.mark.parametrize(("step", "expected"), [("last", [200]), ("all", [0, 100, 200]), (150, [100]), (100, [100])])
def test_steps_are_chosen(tmp_path: Path, step: Any, expected: list[int]) -> None:
    tables = joined(*(spectral(at, network() * (1 + at)) for at in (0, 100, 200)))
    rows = report(tmp_path, tables, step=step).rows
    assert [row["step"] for row in rows] == expected
    assert [row["lambda_max"] for row in rows] == [4.0 * (1 + at) for at in expected]


def test_what_another_step_has_is_not_borrowed(tmp_path: Path) -> None:
    tables = joined({"eigenvalues": eigenvalues(200, network(), 3)}, {"trace": [trace(100, 1.0, 1.0)]})
    first, second = report(tmp_path, tables, step="all").rows
    assert (first["step"], first["trace"], first["lambda_max"]) == (100, 1.0, None)
    assert (second["step"], second["trace"], second["lambda_max"]) == (200, None, 4.0)


def groups(step: int) -> Tables:
    """One probe of the whole and one of two layers."""
    whole = spectral(step, network())
    layers = [
        spectral(step, network()[: 100 * number], top=5, probe="layers", parameters=f"layers.{number}.*")
        for number in (1, 2)
    ]
    return joined(whole, *layers)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("*", [("*", 600)]),
        ("layers.1.*", [("layers.1.*", 100)]),
        ("each", [("*", 600), ("layers.1.*", 100), ("layers.2.*", 200)]),
    ],
)
def test_groups_of_parameters_are_chosen(tmp_path: Path, parameters: str, expected: list[tuple[str, int]]) -> None:
    answer = report(tmp_path, groups(200), parameters=parameters)
    assert [(row["parameters"], row["size"]) for row in answer.rows] == expected
    assert all(row["vectors"] == 4 for row in answer.rows)


def test_a_group_that_nobody_measured_names_those_that_were(tmp_path: Path) -> None:
    answer = report(tmp_path, groups(200), parameters="layers.9.*")
    (row,) = answer.rows
    assert row["step"] is row["lambda_max"] is None
    assert "1 of 1 runs have no spectrum of the hessian; measured are the groups *, layers.1.*" in notes(answer)
    assert answer.draw is None


def test_of_several_probes_the_best_is_shown_or_the_one_that_is_named(tmp_path: Path) -> None:
    rows = [eigenvalue(200, 1.0, probe="eigenvalues-a"), eigenvalue(200, 2.0, probe="eigenvalues-b", samples=500)]
    tables = {"eigenvalues": rows, "trace": [trace(200, 5.0, 9.0)]}
    answer = report(tmp_path, tables)
    assert (answer.rows[0]["lambda_max"], answer.rows[0]["probe"]) == (1.0, "eigenvalues-a, trace")
    assert "Of eigenvalues-a and eigenvalues-b, at each step the one over the most examples counts" in notes(answer)
    chosen = Spectrum(probe="eigenvalues-b").render(Study.open([tmp_path])).rows[0]
    assert (chosen["lambda_max"], chosen["trace"]) == (2.0, 5.0)
    with pytest.raises(
        UsageError, match=r"'eigenvalues-c' measured no hessian.*eigenvalues-a, eigenvalues-b, trace did"
    ):
        Spectrum(probe="eigenvalues-c").render(Study.open([tmp_path]))


def test_failures_and_runs_without_a_spectrum_keep_their_rows(tmp_path: Path) -> None:
    failed = {"step": 200, "probe": "density", "failure": "RuntimeError: out of memory"}
    answer = report(tmp_path, {"density": [failed]}, {}, spectral(200, network()))
    assert [(row["step"], row["vectors"]) for row in answer.rows] == [(200, None), (None, None), (200, 4)]
    assert "1 measurements of density failed: RuntimeError: out of memory." in notes(answer)
    assert "1 of 3 runs have no spectrum" in notes(answer)


def test_estimates_that_cannot_both_be_right_are_named(tmp_path: Path) -> None:
    spectrum = network()
    tables = spectral(200, spectrum)
    tables["trace"] = [trace(200, float(spectrum.sum()) + 5, float((spectrum**2).sum()) * 1.5, stderr=0.1)]
    answer = report(tmp_path, tables)
    assert "more than 4 standard errors apart: run 00000000 at step 200: trace" in notes(answer)
    assert "squared Frobenius norm" in notes(answer)
    # other examples have another trace
    tables["trace"] = [row | {"samples": 100} for row in tables["trace"]]
    other = report(tmp_path / "other", tables)
    assert "standard errors" not in notes(other)
    assert "are of different samples" in notes(other)


def test_right_estimates_are_not_called_wrong(tmp_path: Path) -> None:
    tables = [spectral(200, network(seed=seed), seed=seed) for seed in range(20)]
    assert "standard errors" not in notes(report(tmp_path, *tables))


def test_a_spectrum_where_nothing_stands_apart_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wigner = rng.standard_normal((300, 300))
    spectrum = np.linalg.eigvalsh(wigner + wigner.T)
    answer = report(tmp_path, spectral(200, spectrum))
    assert answer.rows[0]["gap"] < 1.1
    assert "In 1 of 1 spectra no gap is wider than 1.5 x" in notes(answer)


def test_a_list_that_misses_eigenvalues_is_found_out(tmp_path: Path) -> None:
    spectrum = np.concatenate([np.full(12, 4.0), np.linspace(-0.1, 0.1, 400)])
    tables = spectral(200, spectrum)
    # as a method would that returns every value once
    tables["eigenvalues"] = eigenvalues(200, np.array([4.0, *np.linspace(-0.1, 0.1, 400)]), 21)
    answer = report(tmp_path, tables)
    assert answer.rows[0]["outliers"] == 1
    assert answer.rows[0]["outliers_by_mass_low"] > 10
    assert "does not have as many eigenvalues above the edge" in notes(answer)


def test_a_sample_is_not_taken_for_all_the_data(tmp_path: Path) -> None:
    rows = density(200, network(), samples=100)
    for part in range(1, 9):
        rows += density(200, network(seed=part), vectors=1, deflate=0, part=part, samples=100)
    answer = report(tmp_path, {"density": rows})
    (row,) = answer.rows
    assert row["vectors"] == 4, "those of the parts do not count"
    assert "Masses over a sample lean" in notes(answer)
    alone = SpectralDensity.read([row for row in rows if row["part"] == 0]).mass(-0.04, 0.04)
    assert row["mass_near_zero_high"] - row["mass_near_zero_low"] > alone.high - alone.low


def test_unconverged_eigenvalues_are_counted(tmp_path: Path) -> None:
    rows = eigenvalues(200, network(), 4)
    rows[2]["converged"] = False
    assert "1 of 5 eigenvalues had not converged." in notes(report(tmp_path, {"eigenvalues": rows}))


def many(out: Path) -> None:
    """More runs and steps than can be drawn."""
    for number in range(6):
        tables = joined(*(spectral(step, network(seed=number) * (1 + step)) for step in range(0, 100, 10)))
        write_run(out, id_of(number), recipe(batch_size=2**number), tables, data=CLASSES)


def small(out: Path) -> None:
    """As small as it gets: zero, one eigenvalue, all of them negative."""
    for number, spectrum in enumerate(([0.0], [2.0], [-3.0, -1.0], [0.0] * 50)):
        write_run(out, id_of(number), recipe(seed=number), spectral(200, spectrum))


def layers(out: Path) -> None:
    write_run(out, id_of(0), recipe(), groups(200))


def strange(out: Path) -> None:
    """A setting that looks like mathematics, and numbers that are none."""
    write_run(out, id_of(0), recipe(seed="$x_{"), spectral(200, network()))
    write_run(out, id_of(1), recipe(seed="$y"), {"eigenvalues": [eigenvalue(200, float("nan"))]})
    write_run(out, id_of(2), recipe(seed="z"), {"density": [curvature(200, "density") | {"failure": "x"}]})


@pytest.mark.parametrize("write", [many, small, layers, strange], ids=lambda write: write.__name__)
def test_every_figure_can_be_drawn(write: Any, tmp_path: Path) -> None:
    write(tmp_path)
    answer = Spectrum(step="all", parameters="each").render(Study.open([tmp_path]))
    assert answer.draw is not None
    figure = answer.draw()
    assert isinstance(figure, Figure)
    assert formats.figure(answer, "png").startswith(b"\x89PNG")
    if write is many:
        assert len(figure.axes) == 4 * 3, "four runs at the most"
        assert len(figure.legends[0].get_texts()) == 6, "six steps at the most"
