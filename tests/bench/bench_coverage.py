"""How often intervals hold the truth: `python -m tests.bench.bench_coverage`, the table of tests/README.md.

Every statistic with an interval that a report prints, at n = 2 to 50 samples, in percent of 200 or 1,000 seeds;
the simulations stand in tests/support/coverage.py and go through the functions that the reports call. Five minutes.
"""

from __future__ import annotations

from tests.support.coverage import SIZES, table


def main() -> None:
    print(f"| statistic | n counts | {' | '.join(map(str, SIZES))} |")
    print("| --- " * (2 + len(SIZES)) + "|")
    for line in table():
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
