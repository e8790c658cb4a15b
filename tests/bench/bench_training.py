"""Steps per second of the whole runner beside the loops people write: `python -m tests.bench.bench_training`.

Every measurement is a process of its own, so that each contender has its own thread settings, and the contenders take
turns. Ours is timed from the call of `train` to its return: reading data, choosing threads, logging every ten steps,
checkpoints, and loss and accuracy of both sets every 100 steps. `dataloader` is the usual loop around torch.optim, with
its loss logged at every step, at torch's default threads; `dataloader+evaluation` also does the evaluations that ours
does; `lightning` trains and nothing else. The last table takes a sweep of small runs through two workers and through
one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

REPEATS = 5
WORKLOADS = {
    "a": {"title": "MLP 64-64-64-10, digits, batch 32", "batch": 32, "steps": 20000, "lr": 0.05},
    "b": {"title": "MLP 784-512-512-10, MNIST-5k, batch 128", "batch": 128, "steps": 4000, "lr": 0.05},
    "c": {"title": "CNN 16-32-64, MNIST-5k, batch 64", "batch": 64, "steps": 1500, "lr": 0.02},
}
RECIPES = {
    "a": {"model": {"name": "mlp", "hidden": [64, 64]}, "dataset": "digits"},
    "b": {"model": {"name": "mlp", "hidden": [512, 512], "activation": "relu"}, "dataset": "mnist5k"},
    "c": {"model": {"name": "cnn"}, "dataset": "mnist5k"},
}
EVALUATE = 100  # steps between two evaluations, the default of a recipe
CONTENDERS = ("lossgeo", "dataloader", "dataloader+evaluation", "lightning")


def recipe_of(workload: str) -> dict:
    settings = WORKLOADS[workload]
    return {
        "name": "bench",
        **RECIPES[workload],
        "loss": "cross_entropy",
        "optimizer": {"name": "sgd", "lr": settings["lr"], "momentum": 0.9},
        "batch_size": settings["batch"],
        "steps": settings["steps"],
    }


def measure(contender: str, workload: str) -> float:
    """Steps per second, in this process."""
    import torch

    from lossgeo.recipes.documents import Document
    from lossgeo.recipes.resolving import resolve

    (resolved,) = resolve(Document(recipe_of(workload), "bench"))
    steps = WORKLOADS[workload]["steps"]
    if contender == "lossgeo":
        from lossgeo.runs.interrupt import Interrupt
        from lossgeo.runs.run import Run
        from lossgeo.runs.training import train

        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            for _ in train(Run.under(Path(folder), resolved), Interrupt()):
                pass
            return steps / (time.perf_counter() - begin)

    from torch.utils.data import DataLoader, TensorDataset

    from lossgeo.randomness import generator

    data = resolved.recipe.dataset.load()
    module = resolved.recipe.model.build(data.task, generator(0, "initialization"))
    examples = TensorDataset(data.train.inputs.float(), data.train.targets)
    loader = DataLoader(examples, batch_size=WORKLOADS[workload]["batch"], shuffle=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=WORKLOADS[workload]["lr"], momentum=0.9)
    loss_of = torch.nn.functional.cross_entropy
    if contender.startswith("dataloader"):
        sets = [TensorDataset(part.inputs.float(), part.targets) for part in (data.train, data.test)]
        begin, step, losses = time.perf_counter(), 0, []
        while step < steps:
            for inputs, targets in loader:
                if step % EVALUATE == 0 and contender != "dataloader":
                    losses += [evaluated(module, loss_of, DataLoader(part, batch_size=256)) for part in sets]
                optimizer.zero_grad()
                loss = loss_of(module(inputs), targets)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                step += 1
                if step == steps:
                    break
        return steps / (time.perf_counter() - begin)

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
            return loss_of(self.module(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=WORKLOADS[workload]["lr"], momentum=0.9)

    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begin = time.perf_counter()
    trainer.fit(Lit(), loader)
    return steps / (time.perf_counter() - begin)


def evaluated(module: Any, loss_of: Any, loader: Any) -> tuple[float, float]:
    """Loss and accuracy of a whole set, as one writes it."""
    import torch

    module.eval()
    loss, correct, seen = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = module(inputs)
            loss += loss_of(outputs, targets).item() * len(targets)
            correct += int((outputs.argmax(1) == targets).sum())
            seen += len(targets)
    module.train()
    return loss / seen, correct / seen


def sweep(jobs: int, threads: int | None) -> float:
    """Total steps per second of eight runs of workload a in this process, start-up of the workers included."""
    from lossgeo.recipes.documents import Document
    from lossgeo.recipes.resolving import resolve
    from lossgeo.runs.executors import Outcome
    from lossgeo.runs.executors.local import Local
    from lossgeo.runs.interrupt import Interrupt
    from lossgeo.runs.run import Run

    recipe = recipe_of("a") | {"sweep": {"seed": {"range": 8}}} | ({"threads": threads} if threads else {})
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run.under(Path(folder), resolved) for resolved in resolve(Document(recipe, "bench"))]
        begin = time.perf_counter()
        ends = [news for _, news in Local(jobs=jobs).train(runs, Interrupt()) if isinstance(news, Outcome)]
        seconds = time.perf_counter() - begin
    assert all(end.failure is None for end in ends), ends
    return len(runs) * recipe["steps"] / seconds


def child(*arguments: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_training", "--one", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs="+", help="measure one contender in this process (used by the script itself)")
    parser.add_argument("--only", default="abc*", help="workloads to run; * is the sweep")
    options = parser.parse_args()
    if options.one:
        kind, *rest = options.one
        print(json.dumps(sweep(int(rest[0]), int(rest[1]) or None) if kind == "sweep" else measure(kind, rest[0])))
        return
    for workload in [w for w in WORKLOADS if w in options.only]:
        found: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for _ in range(REPEATS):
            for contender in CONTENDERS:
                found[contender].append(child(contender, workload))
        ours = found["lossgeo"]
        print(f"\n{workload}: {WORKLOADS[workload]['title']}, {WORKLOADS[workload]['steps']} steps")
        for contender, values in found.items():
            ratio = statistics.median(o / v for o, v in zip(ours, values, strict=True))
            spread = f"{min(values):.0f} to {max(values):.0f}"
            print(f"  {contender:22}{statistics.median(values):8.0f} steps/s  ({spread})   ours / it {ratio:5.2f}")
    if "*" in options.only:
        cores = os.cpu_count() or 1
        ways = {"two workers": ("sweep", "2", "0"), f"one process, {cores} threads": ("sweep", "1", str(cores))}
        ways |= {"dataloader, one run after the other": ("dataloader", "a")}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPEATS):
            for way, arguments in ways.items():
                rates[way].append(child(*arguments))
        print("\nsweep of 8 runs of a, all steps per second")
        for way, values in rates.items():
            ratio = statistics.median(two / v for two, v in zip(rates["two workers"], values, strict=True))
            print(f"  {way:36}{statistics.median(values):8.0f}   two workers / it {ratio:5.2f}")


if __name__ == "__main__":
    main()
