"""The page of claims made again: every recipe with a claim, over ten seeds.

    python -m tests.bench.claims [--cheap] [FOLDER]

Runs the command of recipes/CLAIMS.md in FOLDER (a new one if none is given; runs that stand there are not trained
again), and writes the table, the commit and the date into the page. Half an hour on two idle cores. With --cheap the
recipes under DEAR are left as they are, and the page says so: six minutes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.claims import DEAR, PAGE, made_again, shown, text, the_command, without


def main() -> None:
    folders = [word for word in sys.argv[1:] if word != "--cheap"]
    cheap = len(folders) < len(sys.argv) - 1
    folder = Path(folders[0] if folders else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    command = the_command()
    before, found = shown(), made_again(without(command, DEAR) if cheap else command, folder)
    if cheap:
        found = sorted([*found, *(line for line in before if line[0] in DEAR)], key=lambda line: line[0])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    now = f"from commit `{commit.stdout.strip()}` on {time.strftime('%Y-%m-%d')}."
    table = "".join(f"| {' | '.join(line)} |\n" for line in found)
    page = re.sub(r"(?<=\| --- \|\n)(\|.*\n)+", lambda _: table, text())
    page = re.sub(r"(?m)^All but .* made again from commit .*\n", "", page)
    if cheap:
        again = f"All but {', '.join(DEAR)} were made again {now}"
        page = re.sub(r"(?m)^(Made whole .*\n)", lambda whole: f"{whole[1]}{again}\n", page)
    else:
        page = re.sub(r"Made whole .*", f"Made whole {now}", page)
    PAGE.write_text(page)
    for line in found:
        if line not in before:
            print("changed:", " | ".join(line))
    print(f"{len(found)} lines, {sum(line not in before for line in found)} changed, {now}")


if __name__ == "__main__":
    main()
