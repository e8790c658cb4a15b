"""The page of claims made again, whole: every recipe with a claim, over ten seeds.

    python -m tests.bench.claims [FOLDER]

Runs the command of recipes/CLAIMS.md in FOLDER (a new one if none is given; runs that stand there are not trained
again), and writes the table, the commit and the date into the page. Half an hour on two cores.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.claims import PAGE, made_again, shown, text, the_command


def main() -> None:
    folder = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp())
    before, found = shown(), made_again(the_command(), folder)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    table = "".join(f"| {' | '.join(line)} |\n" for line in found)
    page = re.sub(r"(?<=\| --- \|\n)(\|.*\n)+", lambda _: table, text())
    made = f"Made whole from commit `{commit.stdout.strip()}` on {time.strftime('%Y-%m-%d')}."
    PAGE.write_text(re.sub(r"Made whole from commit .*", made, page))
    for line in found:
        if line not in before:
            print("changed:", " | ".join(line))
    print(f"{len(found)} lines, {sum(line not in before for line in found)} changed; {made}")


if __name__ == "__main__":
    main()
