"""What the presets learn: runs of several seeds side by side, and the table and the curves of their returns.

    python -m benchmarks.learning --presets cartpole acrobot --seeds 1 2 3 --jobs 2
    python -m benchmarks.learning --presets minatar --collect        # only read the runs that are there
    python -m benchmarks.learning --keep                             # put finished runs into results/runs
    python -m benchmarks.learning --table minatar                    # tasks x methods, of the runs that are kept

Each run is `lockstep train PRESET --seed S` with one rank and one thread. A row holds the final greedy evaluation of
every seed; the table their mean and standard deviation over seeds. Runs are in runs/learning/PRESET-sSEED and a
finished one is not run again. `--keep` and `--table` train nothing: the table is made of the runs kept in the
repository (benchmarks/archive.py), so that it can grow over several machines and days; `--table` prints the markdown of
docs/algorithms.md, draws the curves into docs/images and, if no run is missing, appends rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import archive, results_table
from benchmarks.figures import curves
from benchmarks.rows import HERE, write_rows
from benchmarks.suites import SUITES
from trainer.log.plot import learning_curve


def train(preset: str, seed: int, folder: Path, extra: list[str]) -> None:
    """Train one seed, unless it is finished."""
    name = f"{preset}-s{seed}"
    if (folder / name / "results.json").exists():
        return
    command = [sys.executable, "-m", "trainer", "train", preset, "--seed", str(seed), "--runtime.threads", "1"]
    command += ["--log.dir", str(folder), "--log.name", name, "--log.video", "False", *extra]
    with (folder / f"{name}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def row(preset: str, seeds: list[int], folder: Path, extra: list[str]) -> dict[str, Any]:
    """Return the numbers of all seeds of one preset."""
    results = [json.loads((folder / f"{preset}-s{seed}" / "results.json").read_text()) for seed in seeds]
    means = [result["evaluation"]["mean"] for result in results]
    return {
        "preset": preset,
        "train": f"lockstep train {preset} --seed S {' '.join(extra)}".strip(),
        "seeds": seeds,
        "env_steps": results[0]["env_steps"],
        "episodes": results[0]["evaluation"]["episodes"],
        "return_by_seed": means,
        "return_mean": statistics.fmean(means),
        "return_std": statistics.stdev(means) if len(means) > 1 else 0.0,
        "minutes_by_seed": [result["seconds"] / 60 for result in results],
    }


def show_table(name: str, seeds: list[int], folder: Path, images: Path) -> None:
    """Print the table of a suite, draw its curves, and append its rows once every run has finished."""
    suite = SUITES[name]
    cells = results_table.read(suite, folder, seeds)
    print(f"### {suite.title}\n")
    print("\n".join(results_table.markdown(suite, cells, seeds)))
    path = images / f"learning_{name}_methods.png"
    curves(suite, folder, seeds, path)
    print(f"\nfigure: {path.name}")
    missing = sum(not cell.complete(seeds) for cell in cells.values())
    if missing:
        print(f"rows: none are written while {missing} of {len(cells)} cells are incomplete\n")
    else:
        written = write_rows("learning_table", results_table.rows(name, suite, cells, seeds))
        print(f"rows: {written.name}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--plots", type=Path, default=HERE / "results", help="folder for the learning curves")
    parser.add_argument("--table", nargs="*", choices=SUITES, help="suites to tabulate; without a name, all of them")
    parser.add_argument("--images", type=Path, default=HERE.parent / "docs" / "images", help="folder for their curves")
    parser.add_argument("--keep", action="store_true", help="keep the finished runs of --folder in the repository")
    parser.add_argument("--commit", default="", help="with --keep: what they were trained with; default: this commit")
    parser.add_argument(
        "--kept", type=Path, default=archive.KEPT, help="with --table: folder of the runs that are kept"
    )
    options, extra = parser.parse_known_args(arguments)
    if options.keep:
        print("kept:", ", ".join(archive.keep_all(options.folder, options.commit)) or "nothing new")
        return 0
    if options.table is not None:
        for name in options.table or SUITES:
            show_table(name, options.seeds, options.kept, options.images)
        return 0
    if not options.presets:
        parser.error("nothing to do: name --presets, or ask for a --table")
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.collect:
        with ThreadPoolExecutor(options.jobs) as pool:
            jobs = [(preset, seed) for preset in options.presets for seed in options.seeds]
            list(pool.map(lambda job: train(*job, options.folder, extra), jobs))
    rows = [row(preset, options.seeds, options.folder, extra) for preset in options.presets]
    for preset in options.presets:
        folders = [options.folder / f"{preset}-s{seed}" for seed in options.seeds]
        learning_curve(folders, options.plots / f"learning_{preset}.png", title=f"{preset}, {len(folders)} seeds")
    table = Table("preset", "env steps", "seeds", "greedy return, mean ± std over seeds", "by seed", "minutes a run")
    for r in rows:
        by_seed = ", ".join(f"{value:.1f}" for value in r["return_by_seed"])
        score = f"{r['return_mean']:.1f} ± {r['return_std']:.1f}"
        minutes = f"{statistics.median(r['minutes_by_seed']):.1f}"
        table.add_row(r["preset"], f"{r['env_steps']:,}", str(len(r["seeds"])), score, by_seed, minutes)
    Console().print(table)
    print(f"rows: {write_rows('learning', rows).relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
