"""Our env steps/s beside other trainers', on the same machine, in the same minutes, with the same settings.

    python -m benchmarks.peers [--work cartpole] [--repeats N] [--env-steps N] [--install]

CartPole with CleanRL's settings: MLP 120-84, batch 128, one update per 10 env steps, Adam 2.5e-4, memory 10,000, target
every 500 env steps. Stable-Baselines3 steps one environment, as its defaults and CleanRL do; ours steps 64 at the same
replay ratio, which is the point: more environments and as many updates a transition. Measured are env steps/s with
learning under way, interleaved; the ratio is taken within a repeat.

What is fair about it, and what is not:

- One process and one torch thread each, eager mode, float32, torch of the same version; the other one sleeps meanwhile.
- Epsilon is constant in both, at the mean of CleanRL's schedule: a random action costs Stable-Baselines3 no forward
  pass, and how long episodes last depends on it.
- Ours writes its log (JSON lines, TensorBoard) every 1,000 env steps; Stable-Baselines3 is silent, and writes nothing.
- Stable-Baselines3 monitors episodes, clips gradients (threshold out of reach) and uses the Huber loss, which cannot be
  switched off; ours uses the squared loss of CleanRL and agrees on stop requests every 256 env steps.
- The two learn from different streams of experience: 64 short pieces instead of one long one. Speed is compared here,
  the returns are compared elsewhere.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import WORKS, go, interleaved, median, open_run, spread, table, timed, warm_up
from benchmarks.rows import write_rows
from benchmarks.venvs import PEERS, Peer, Worker

LIMITS = {("cartpole", "sb3"): 3.0}
"""How many times the peer's env steps/s are ours at least."""
THREADS = 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=sorted({work for work, _ in LIMITS}), default="cartpole")
    parser.add_argument("--peer", choices=sorted({peer for _, peer in LIMITS}), default="sb3")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env-steps", type=int, default=12_800, help="env steps in one measurement")
    parser.add_argument("--install", action="store_true", help="only create the peer's environment")
    options = parser.parse_args(argv)
    peer = PEERS[options.peer]
    peer.install()
    if options.install:
        return 0
    row = measure(options.work, peer, options.repeats, options.env_steps)
    print(report(row))
    print(f"rows: {write_rows('peers', [row]).name}")
    return 0 if row["pass"] else 1


def measure(work: str, peer: Peer, repeats: int, env_steps: int) -> dict[str, Any]:
    """Return one row: env steps/s of ours and of the peer."""
    config = WORKS[work]()
    steps = max(1, env_steps // config.env.num_envs)
    ours: list[int] = []
    theirs: list[int] = []
    with tempfile.TemporaryDirectory() as folder, open_run(config, Path(folder)) as run, Worker(peer) as worker:
        epsilon = run.layout.epsilon(1)

        def we() -> float:
            before = run.learner.updates
            rate = steps * config.env.num_envs / timed(lambda: go(run, steps))
            ours.append(run.learner.updates - before)
            return rate

        def they() -> float:
            answer = worker.ask("train", work=work, env_steps=env_steps, epsilon=epsilon)
            theirs.append(answer["updates"])
            return float(answer["env_steps"] / answer["seconds"])

        warm_up(run, 10)
        worker.ask("train", work=work, env_steps=100, epsilon=epsilon)
        rates = interleaved({"ours": we, "theirs": they}, repeats)
        versions = worker.ask("versions")
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True)]
    return {
        "work": work,
        "peer": peer.name,
        "peer_versions": versions,
        "threads": THREADS,
        "epsilon": epsilon,
        "env_steps": env_steps,
        "repeats": repeats,
        "ours": {"envs": config.env.num_envs, "updates": sum(ours), "env_steps_per_s": rates["ours"]},
        "theirs": {"envs": 1, "updates": sum(theirs), "env_steps_per_s": rates["theirs"]},
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "limit": LIMITS[work, peer.name],
        "pass": median(ratios) >= LIMITS[work, peer.name],
    }


def report(row: dict[str, Any]) -> str:
    """Return the row in words."""
    names = {"ours": "lockstep", "theirs": f"{row['peer']} {row['peer_versions'].get('stable_baselines3', '')}".strip()}
    lines = []
    for side, name in names.items():
        rates = row[side]["env_steps_per_s"]
        envs, updates = row[side]["envs"], row[side]["updates"]
        lines.append((name, envs, updates, f"{median(rates):,.0f}", spread(rates, 0)))
    verdict = "pass" if row["pass"] else "FAIL"
    return "\n".join(
        (
            table((row["work"], "envs", "updates", "env steps/s", "spread"), lines),
            f"ratio {row['ratio']:.2f} ({spread(row['ratio_spread'])} over {row['repeats']} repeats), "
            f"at least {row['limit']}: {verdict}",
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())
