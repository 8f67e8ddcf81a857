"""CPU time per update, eager against compiled: the same learner on the same batches, in turn, on one thread.

    python -m benchmarks.step_update [--works cartpole minatar-rainbow-breakout ...] [--batch N] [--repeats N]
                                      [--dtype bfloat16]

An update is `Learner.update` with everything in it, which is one graph when compiled. One thread waits for nothing, so
its CPU time is what an update takes, whatever the load (except for shared caches). `start` is the wall time until the
run is set up: it compiles, or finds what an earlier start left in the cache (TORCHINDUCTOR_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.harness import cpu_time, interleaved, median, of_preset, open_run, spread, table, warm_up
from benchmarks.rows import write_rows
from trainer.config import Config
from trainer.learner import Differentiate
from trainer.run import Run

UPDATES = {"cartpole": 300, "atari": 10}
"""Updates in one measurement; 100 elsewhere."""
Dtype = Literal["float32", "bfloat16"]
DEFAULT = ("cartpole", "minatar-dqn-breakout", "minatar-ddp-breakout", "minatar-rainbow-breakout", "atari")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", default=DEFAULT, help="works of benchmarks.harness, or presets")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, help="override the batch size")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="--runtime.dtype")
    parser.add_argument("--updates", type=int, help="updates in one measurement")
    options = parser.parse_args(argv)
    rows = [
        measure(work, options.repeats, options.updates or UPDATES.get(work, 100), options.batch, options.dtype)
        for work in options.works
    ]
    print(report(rows))
    print(f"rows: {write_rows('step_update', rows).name}")
    return 0


def config_of(work: str, batch: int | None, dtype: Dtype) -> Config:
    """Return a work or a preset, compiled, on one thread; batch: another batch size than its own."""
    config = of_preset(work)
    replay = replace(config.replay, batch_size=batch or config.replay.batch_size)
    runtime = replace(config.runtime, device="cpu", threads=1, compile=True, dtype=dtype)
    return replace(config, replay=replay, runtime=runtime)


def measure(
    work: str, repeats: int, updates: int, batch: int | None = None, dtype: Dtype = "float32"
) -> dict[str, Any]:
    """Return one row: microseconds per update, eager and compiled."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open_run(config_of(work, batch, dtype), Path(folder)) as run:
        start = time.perf_counter() - began
        ways: dict[str, Differentiate] = {"compiled": run.learner.compiled, "eager": lambda batch, rates: None}
        run.learner.compiled = ways["eager"]
        warm_up(run, 100)
        rates = run.layout.rates(run.step)
        batches = list(itertools.islice(every_batch(run), 4))

        def updating(way: str) -> float:
            run.learner.compiled = ways[way]
            took = cpu_time(each)
            run.learner.drain()
            return took

        def each() -> None:
            for _, batch in zip(range(updates), itertools.cycle(batches), strict=False):
                run.learner.update(batch, rates)

        works = {f"update_{way}": functools.partial(updating, way) for way in ways}
        for work_once in works.values():
            work_once()
        took = interleaved(works, repeats)
        threads = torch.get_num_threads()
        size = run.config.replay.batch_size
    ratios = [e / c for e, c in zip(took["update_eager"], took["update_compiled"], strict=True)]
    return {
        "work": work,
        "dtype": dtype,
        "batch": size,
        "threads": threads,
        "updates": updates,
        "repeats": repeats,
        "us": {name: 1e6 * median(values) / updates for name, values in took.items()},
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "start_s": start,
    }


def every_batch(run: Run) -> Any:
    """Yield batches of the steps to come, without learning from them."""
    for step in itertools.count(run.step + 1):
        yield from run.replay.batches(step)


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [
        (
            row["work"],
            row["batch"],
            *(f"{row['us'][name]:,.0f}" for name in ("update_eager", "update_compiled")),
            f"{row['ratio']:.2f} ({spread(row['ratio_spread'])})",
            f"{row['start_s']:.1f}",
        )
        for row in rows
    ]
    header = ("µs", "batch", "eager", "compiled", "eager / compiled", "start [s]")
    return table(header, lines)


if __name__ == "__main__":
    raise SystemExit(main())
