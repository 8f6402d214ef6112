"""The demo under several seeds: `.venv/bin/python benchmarks/seeds.py`. Prints each run, the means and deviations.

With `--config configs/fashion-mnist-5000.toml --disclosure label` (or `top-k:3`) the same of lesser answers.
Every seed is a whole demo of its own: server process, key, run over HTTP, agreement on the owner's answers, audit.
"""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

PROJECT = Path(__file__).resolve().parent.parent
DEMO = [sys.executable, str(PROJECT / "examples" / "demo.py")]


def main(
    config: Annotated[Path, typer.Option(help="the experiment")] = PROJECT / "configs" / "demo-fashion-mnist.toml",
    bundle: Annotated[Path, typer.Option(help="its teacher")] = PROJECT / "bundles" / "fashion-mnist-lenet5",
    seeds: Annotated[int, typer.Option(help="run seeds 1 to this one", min=1)] = 3,
    runs: Annotated[Path, typer.Option(help="where the runs go")] = PROJECT / "runs" / "seeds",
    disclosure: Annotated[str, typer.Option(help="what the key may see of an answer")] = "probabilities",
) -> None:
    """Run and print; the exit code is a demo's own when one fails."""
    rows: dict[str, list[float]] = {}
    for seed in range(1, seeds + 1):
        folder = runs / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        seeded = folder / "config.toml"
        seeded.write_text(re.sub(r"(?m)^seed = \d+", f"seed = {seed}", config.read_text()))
        command = [*DEMO, "--config", str(seeded), "--bundle", str(bundle), "--runs", str(folder)]
        command += ["--disclosure", disclosure]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
        summary = json.loads((folder / "demo" / "summary.json").read_text())
        figures = {
            "student-alone": 100 * summary["baselines"]["student_alone"],
            "standard-kd": 100 * summary["baselines"]["standard_kd"],
            "our student": 100 * summary["student_accuracy"],
            "agreement": 100 * summary["agreement"],
            "seconds": sum(summary["seconds"].values()),
        }
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{name:<14} {statistics.mean(values):6.2f}{deviation}")


if __name__ == "__main__":
    typer.run(main)
