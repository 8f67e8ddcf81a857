"""Environment steps per second of each backend, with random actions and nothing else going on.

    python -m benchmarks.envs [--device] [--env ID ...] [--num-envs N ...] [--seconds S] [--repeats R] [--threads T]

An env step is one environment stepped once (in Atari 4 frames). Backends of one environment are measured in turn; the
ratio is to the first of them, within a turn. `--device`: games written in PyTorch, eager (torch) and as one graph
(compiled), next to the backend that `auto` chooses. Medians; the rows go to results/envs.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.rows import write_rows
from trainer.build.inductor import compile_step
from trainer.envs import Backend, make_backend
from trainer.envs.device import DeviceBackend

Cases = tuple[tuple[str, tuple[str, ...]], ...]
CASES: Cases = (  # environment, backends
    ("CartPole-v1", ("sync", "async", "native")),
    ("MinAtar/Breakout-v1", ("minatar",)),
    ("ALE/Breakout-v5", ("ale",)),
    ("toy/Catch", ("toy",)),
)
BOARDS = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
DEVICE: Cases = (
    ("CartPole-v1", ("native", "torch", "compiled")),
    ("Acrobot-v1", ("sync", "torch", "compiled")),
    ("MountainCar-v0", ("sync", "torch", "compiled")),
    *((f"MinAtar/{name}-v1", ("minatar", "torch", "compiled")) for name in BOARDS),
)


def build(kind: str, env_id: str, num_envs: int, threads: int = 0) -> Backend:
    """Return a backend; `compiled` is the one written in PyTorch with its step as one graph."""
    seeds = list(range(num_envs))
    backend = make_backend("torch" if kind == "compiled" else kind, env_id, num_envs, seeds, threads=threads)
    if isinstance(backend, DeviceBackend) and kind == "compiled":
        backend.step = compile_step(backend.step, backend.example())
    return backend


def rates(backend: Backend, seconds: float) -> Iterator[float]:
    """Yield env steps/s of one repeat after another; the first steps, which build caches, are not counted."""
    actions = torch.randint(backend.num_actions, (256, backend.num_envs), generator=torch.Generator().manual_seed(0))
    backend.reset()
    step = 0

    def play(until: float, at_least: int) -> int:
        nonlocal step
        first = step
        while step - first < at_least or time.perf_counter() < until:
            backend.send(actions[step % len(actions)])
            backend.recv()
            step += 1
        return step - first

    play(0.0, at_least=32)
    while True:
        began = time.perf_counter()
        steps = play(began + seconds, at_least=1)
        yield steps * backend.num_envs / (time.perf_counter() - began)


def measure(backends: list[Backend], seconds: float, repeats: int) -> list[list[float]]:
    """Return the rates of each backend, measured in turn."""
    running = [rates(backend, seconds) for backend in backends]
    turns = [[next(rate) for rate in running] for _ in range(repeats)]
    return [list(found) for found in zip(*turns, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", action="store_true", help="games written in PyTorch, next to what auto chooses")
    parser.add_argument("--env", nargs="+", help="ids; default: one of each backend")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[8, 64], help="environments of the vector env")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="ALE: emulator threads; 0: its own choice")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = DEVICE if args.device else CASES
    if args.env:
        known = {env_id for env_id, _ in cases}
        cases = tuple(case for case in cases if case[0] in args.env)
        cases += tuple((env_id, ("auto",)) for env_id in args.env if env_id not in known)
    rows: list[dict[str, Any]] = []
    print(f"{'environment':<25}{'backend':<10}{'envs':>6}{'env steps/s':>14}{'lowest':>12}{'highest':>12}{'ratio':>8}")
    for env_id, kinds in cases:
        for num_envs in args.num_envs:
            backends = [build(kind, env_id, num_envs, args.threads) for kind in kinds]
            try:
                found = measure(backends, args.seconds, args.repeats)
            finally:
                for backend in backends:
                    backend.close()
            for kind, repeats in zip(kinds, found, strict=True):
                ratio = statistics.median(mine / theirs for mine, theirs in zip(repeats, found[0], strict=True))
                row = {
                    "env": env_id,
                    "backend": kind,
                    "num_envs": num_envs,
                    "threads": args.threads,
                    "env_steps_per_second": round(statistics.median(repeats)),
                    "repeats": [round(rate) for rate in repeats],
                    "ratio": round(ratio, 2),
                    "to": kinds[0],
                    "seconds": args.seconds,
                }
                rows.append(row)
                low, high, typical = round(min(repeats)), round(max(repeats)), row["env_steps_per_second"]
                print(
                    f"{env_id:<25}{kind:<10}{num_envs:>6}{typical:>14,}{low:>12,}{high:>12,}{ratio:>8.2f}", flush=True
                )
    print(f"appended to benchmarks/results/{write_rows('envs', rows).name}")


if __name__ == "__main__":
    main()
