"""The program at its borders: what goes to which stream, exit codes, pipes, terminals."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lossgeo.display import display
from lossgeo.runs.training import Progress
from tests.support.program import (
    ENVIRONMENT,
    RECIPE,
    SAID,
    command,
    lossgeo,
    manifest,
    rows,
    shell,
    start,
    until,
    written,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two runs were trained by the real program, with what it printed."""
    folder = tmp_path_factory.mktemp("home")
    path = written(folder, sweep={"seed": [0, 1]}, steps=20)
    found = lossgeo("train", path, cwd=folder)
    assert (found.returncode, found.stderr) == (0, SAID)  # once for both
    (folder / "printed").write_text(found.stdout)
    return folder


def folders(home: Path) -> list[str]:
    return (home / "printed").read_text().splitlines()


# --- what goes where -------------------------------------------------------------------------------------------------


def test_train_prints_folders_and_a_second_time_the_same(home: Path) -> None:
    assert len(folders(home)) == 2
    for line in folders(home):
        assert manifest(home / line)["status"] == "done"
    before = {p: p.stat().st_mtime_ns for p in (home / "outputs").rglob("*")}
    code, out, shown = on_a_terminal("train", "tiny.yaml", "-q", cwd=home)
    assert (code, out, shown) == (0, (home / "printed").read_text(), "")
    assert {p: p.stat().st_mtime_ns for p in (home / "outputs").rglob("*")} == before


def test_dry_run_prints_recipes_from_stdin_as_json_and_trains_nothing(tmp_path: Path) -> None:
    text = yaml.safe_dump(RECIPE)
    found = lossgeo("train", "-", "--dry-run", "--sweep", "seed=1,2", "--set", "steps=7", stdin=text, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    planned = [json.loads(line) for line in found.stdout.splitlines()]
    assert [p["swept"] for p in planned] == [{"seed": 1}, {"seed": 2}]
    assert {p["recipe"]["steps"] for p in planned} == {7}
    assert all(p["folder"].endswith(p["run"]) for p in planned)
    assert list(tmp_path.iterdir()) == []


def test_list_and_schema_print_data_alone(tmp_path: Path) -> None:
    found = shell("lossgeo list models --format jsonl; lossgeo schema > schema.json", tmp_path)
    assert found.stderr == ""
    assert "mlp" in [value for line in found.stdout.splitlines() for value in json.loads(line).values()]
    assert "properties" in json.loads((tmp_path / "schema.json").read_text())


def test_report_in_every_format_parses(home: Path) -> None:
    script = "for f in json jsonl csv tsv markdown; do lossgeo report runs outputs --format $f > rows.$f; done"
    found = shell(f"{script}; lossgeo report runs outputs -q | cut -f1", home)
    assert found.stderr == "note: 2 runs: 2 done.\n" * 5
    ids = sorted(manifest(home / line)["run"] for line in folders(home))
    read = {
        "json": json.loads((home / "rows.json").read_text()),
        "jsonl": [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()],
        "csv": list(csv.DictReader(io.StringIO((home / "rows.csv").read_text()))),
        "tsv": list(csv.DictReader(io.StringIO((home / "rows.tsv").read_text()), delimiter="\t")),
    }
    for parsed in read.values():
        assert sorted(row["run"] for row in parsed) == ids
    assert (home / "rows.markdown").read_text().count("\n") == 4
    first, *others = found.stdout.splitlines()
    assert first == "run"
    assert sorted(others) == ids


def test_rows_go_to_a_file_as_its_suffix_says(home: Path) -> None:
    script = "for f in json csv parquet; do lossgeo report runs outputs -q --out rows_of.$f || exit; done"
    assert shell(f"{script}; lossgeo report runs outputs -q --format json > printed.json", home).returncode == 0
    expected = json.loads((home / "printed.json").read_text())
    assert json.loads((home / "rows_of.json").read_text()) == expected
    ids = [row["run"] for row in expected]
    assert pd.read_csv(home / "rows_of.csv", dtype=str)["run"].tolist() == ids
    assert pd.read_parquet(home / "rows_of.parquet")["run"].tolist() == ids
    refused = lossgeo("report", "runs", "outputs", "--out", "rows.xlsx", cwd=home)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_rows_go_through_the_descriptors_of_a_shell(home: Path) -> None:
    command = "lossgeo report runs outputs -q --format csv"
    found = shell(
        f"{command} > straight.csv; {command} --out /dev/fd/1 > told.csv; {command} --out /dev/fd/1 | cat", home
    )
    assert found.stdout == (home / "told.csv").read_text() == (home / "straight.csv").read_text()


def test_a_report_with_nothing_to_say_exits_3_says_why_and_writes_nothing(home: Path) -> None:
    found = lossgeo("report", "escape", "outputs", "--out", "none.csv", "--figure", "none.png", cwd=home)
    assert (found.returncode, found.stdout) == (3, "")
    assert found.stderr.startswith(
        "error: Escape from saddles: there is nothing to report. 2 of 2 runs watched no saddle"
    )
    assert not list(home.glob("none.*"))


def test_a_pipeline_from_recipe_to_report(tmp_path: Path) -> None:
    written(tmp_path, steps=20)
    found = shell(
        "lossgeo train - < tiny.yaml | lossgeo probe - --probe trace:vectors=3 --at all"
        " | lossgeo report runs - --format json -q; echo ${PIPESTATUS[@]}",
        tmp_path,
    )
    assert found.stderr == SAID
    parsed, _, codes = found.stdout.rstrip("\n").rpartition("\n")
    assert codes == "0 0 0"
    (row,) = json.loads(parsed)
    assert row["status"] == "done"
    assert row["trace"] is not None
    assert [r["step"] for r in rows(tmp_path / row["folder"], "trace")] == [0, 20]


# --- readers who leave -----------------------------------------------------------------------------------------------


def test_closed_pipes_end_quietly(home: Path) -> None:
    for script in (
        "lossgeo report runs outputs -q | head -1",
        "lossgeo report runs outputs -q | true",
        "lossgeo report runs outputs 2>&1 | true",
        "lossgeo train tiny.yaml | true",
    ):
        found = shell(f"{script}; echo ${{PIPESTATUS[@]}} >&2", home)
        assert found.stderr.splitlines() == ["0 0"], script


def test_train_into_a_closed_pipe_ends_after_the_first_run(tmp_path: Path) -> None:
    written(tmp_path, sweep={"seed": {"range": 5}}, steps=5)
    found = shell("lossgeo train tiny.yaml | head -1; echo ${PIPESTATUS[@]} >&2", tmp_path)
    assert found.stderr == f"{SAID}0 0\n"
    assert found.stdout.startswith("outputs/tiny/seed=0-")
    # nobody asks for the others' folders; one or two more may end before the program notices
    assert 1 <= len(list(tmp_path.glob("outputs/tiny/*/run.json"))) < 5


def test_a_full_device_and_closed_streams(home: Path) -> None:
    found = shell(
        "lossgeo report runs outputs -q > /dev/full; echo $?; lossgeo report runs outputs 2>&- | cut -f1; "
        "lossgeo report runs outputs -q >&-; echo $?",
        home,
    )
    ids = sorted(manifest(home / line)["run"] for line in folders(home))
    first, *others, last = found.stdout.splitlines()
    assert (first, last) == ("1", "0")
    assert sorted(others) == sorted(["run", *ids]), "no note strays onto standard output"
    assert found.stderr == "error: [Errno 28] No space left on device\n"


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_wrong_recipes_cost_nothing_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "model: mlp\ndataset: digits\nbatch_sizes: 3\noptimizer: {name: sgd, lr: fast}\n"
    )
    found = lossgeo("train", "bad.yaml", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert "bad.yaml:3:" in found.stderr
    assert "bad.yaml:4:" in found.stderr
    assert "Traceback" not in found.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "runs", "."], 3, "error: no run in .: name folders that `lossgeo train` printed"),
        (["report", "runs", "nowhere"], 2, "nowhere: no such folder"),
        (["report", "nonsense", "."], 2, "nonsense"),
        (["report", "runs"], 2, "Missing argument"),
        (["train", "--jobs", "0"], 2, "Invalid value for '--jobs'"),
        (["nonsense"], 2, "No such command"),
        (["--version"], 0, ""),
    ],
)
def test_exit_codes_of_arguments(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    found = lossgeo(*arguments, cwd=tmp_path)
    assert found.returncode == code
    assert message in found.stderr
    assert (found.stdout == "") == (code != 0)


def test_probe_exit_codes(home: Path) -> None:
    found = shell(
        f"lossgeo probe {folders(home)[0]} --probe trace --at 3; echo $?;"
        f"lossgeo probe {folders(home)[0]} --probe trcae; echo $?",
        home,
    )
    assert found.stdout.splitlines() == ["1", "2"]
    one, two = found.stderr.splitlines()
    assert one == f"error: {folders(home)[0]}: no checkpoint at step 3; there are 0, 20"
    assert "trace" in two


def test_sigterm_exits_75_and_an_edited_run_exits_1_when_probed(tmp_path: Path) -> None:
    """The other exit codes of training, 1 and 130, are in test_faults."""
    path = written(tmp_path, steps=300_000)
    process = start("train", path, cwd=tmp_path)
    until(lambda: bool(list(tmp_path.glob("outputs/tiny/*/checkpoints/*"))))
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "")
    (folder,) = tmp_path.glob("outputs/tiny/*")
    assert errors.startswith(f"{SAID}outputs/tiny/{folder.name}: stopped by signal 15")
    file = folder / "recipe.yaml"
    file.write_text(file.read_text().replace("300000", "300001"))
    found = lossgeo("probe", folder, "--probe", "trace", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert f"{folder}/recipe.yaml: it or a file in components/ is not what the run was made from" in found.stderr


def test_a_signal_in_the_first_moment_is_told_as_one(tmp_path: Path) -> None:
    path = written(tmp_path, steps=300_000)
    process = start("train", path, cwd=tmp_path)
    # torch is being loaded
    until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "")
    assert "Traceback" not in errors


# --- terminals -------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: object, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """Run the program with standard error on a terminal of its own; exit code, standard output, the terminal's text."""
    ours, theirs = pty.openpty()
    reader, writer = os.pipe()
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=theirs,
    )
    os.close(writer)
    os.close(theirs)
    seen = {ours: b"", reader: b""}
    waiting = [ours, reader]
    while waiting:
        for descriptor in select.select(waiting, [], [], 60)[0]:
            try:
                part = os.read(descriptor, 65536)
            except OSError:  # a terminal without a program reads as an error
                part = b""
            if not part:
                waiting.remove(descriptor)
            seen[descriptor] += part
    code = process.wait(timeout=60)
    os.close(ours)
    os.close(reader)
    return code, seen[reader].decode(), seen[ours].decode()


def test_a_terminal_shows_bars_and_standard_output_stays_clean(tmp_path: Path) -> None:
    written(tmp_path, sweep={"seed": [0, 1]}, steps=6000, log={"every": 100}, checkpoint={"every": 6000})
    code, out, shown = on_a_terminal("train", "tiny.yaml", cwd=tmp_path)
    assert code == 0
    assert [line.split("-")[0] for line in out.splitlines()] == ["outputs/tiny/seed=0", "outputs/tiny/seed=1"]
    assert "runs" in shown
    assert "seed=0-" in shown
    assert "loss 0." in shown
    assert "\x1b[" in shown
    assert "\x1b[3" in shown, "in color"
    assert "outputs/" not in shown


def test_no_color_is_kept(tmp_path: Path) -> None:
    written(tmp_path, steps=3000)
    code, out, shown = on_a_terminal("train", "tiny.yaml", cwd=tmp_path, NO_COLOR="1")
    assert code == 0
    assert out.startswith("outputs/tiny/")
    assert "runs" in shown
    assert "\x1b[3" not in shown


def test_lines_where_nobody_watches_come_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr("lossgeo.display.time.monotonic", lambda: float(next(clock)))
    with display(3, quiet=False) as shown:
        for step in range(8):
            shown.show(Path("outputs/a"), Progress(step, 10, 0.5))
        shown.over(Path("outputs/a"))
        shown.show(Path("outputs/b"), Progress(1, 10, None, note="something odd"))
        shown.show(Path("outputs/b"), Progress(2, 10))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert "0/3 runs done; a: step 2 of 10, loss 0.5" in lines
    assert "warning: something odd" in lines
    assert 2 <= len([line for line in lines if "runs done" in line]) <= 4


def test_quiet_hides_warnings_too(capsys: pytest.CaptureFixture[str]) -> None:
    with display(1, quiet=True) as shown:
        shown.show(Path("a"), Progress(1, 2, 0.1, note="something odd"))
        shown.over(Path("a"))
    assert capsys.readouterr() == ("", "")


def test_a_second_ctrl_c_does_not_wait_for_a_measurement(home: Path) -> None:
    process = start("probe", folders(home)[0], "--probe", "density:vectors=10000,deflate=0", cwd=home)
    lock = home / folders(home)[0] / ".lock"
    until(lambda: lock.read_text().startswith(f"{process.pid} on "))
    time.sleep(2)  # the data are loaded, the measurement, which takes minutes, has begun
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in errors
