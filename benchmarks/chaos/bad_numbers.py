"""Bad numbers on one rank, a flipped bit, and ranks that do not run the same program."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random

from launching import started

from benchmarks.chaos import disagree_rank
from benchmarks.chaos.row import SHORT, Outcome, Row, outcome
from benchmarks.chaos.running import SMALL, faulty, final_state, finite, happened, supervised

SOON = 10.0  # s


def bad_number(folder: Path, random: Random) -> Outcome:
    """One NaN or infinity in a loss or a gradient of one rank."""
    where, what = random.choice(("loss", "grad")), random.choice(("nan", "inf"))
    kind = random.choice(("flat", "ddp", "zero1", "overlap", "local_sgd", "gossip", "server"))
    fault = f"{where}:{random.randrange(2)}:{random.randrange(100, 400)}:{what}"
    if kind == "ddp":  # its gradient is already averaged when it could be corrupted
        fault = fault.replace("grad", "loss")
    with supervised(folder, 2, *SHORT.flags, "--sync.kind", kind, env=faulty(folder, fault)) as program:
        program.wait().expect_nothing_left()
    rows = [json.loads(row) for row in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    skipped = sum(row.get("losses/skipped", 0.0) for row in rows)
    checks = {
        "the fault happened": bool(happened(folder)),
        "the run ended well, without a restart": program.code == 0 and "resumed at" not in program.output,
        f"one update was skipped ({skipped})": skipped == (0.5 if kind in ("local_sgd", "gossip") else 1.0),
        "all numbers are finite": program.code == 0 and finite(final_state(folder / "run")),
    }
    found = outcome(checks)
    return Outcome(found.why and f"{fault}, {kind}: {found.why}\n{program.output}")


def bad_numbers(folder: Path, random: Random) -> Outcome:
    """NaN from some update on: the run has to stop and name the rank at fault."""
    rank = random.randrange(2)
    fault = f"loss:{rank}:{random.randrange(100, 400)}:nan+"
    with supervised(folder, 2, env=faulty(folder, fault), restarts=0) as program:
        program.wait().expect_nothing_left()
    checks = {
        "the run failed": program.code != 0,
        "rank and cause are told": f"non-finite loss on rank {rank} at update " in program.output,
        "what was stored is finite": not list((folder / "run" / "checkpoints").glob("step-*"))
        or finite(final_state(folder / "run")),
    }
    found = outcome(checks)
    return Outcome(found.why and f"{found.why}\n{program.output}")


def flipped_bit(folder: Path, random: Random) -> Outcome:
    """One bit of one weight on one rank."""
    fault = f"act:1:{random.randrange(100, 400)}:flip"
    with supervised(folder, 2, env=faulty(folder, fault), restarts=0) as program:
        program.wait().expect_nothing_left()
    told = [line for line in program.lines if "replicas differ at step" in line]
    checks = {
        "the run failed": program.code != 0,
        "rank and parameter are named": any("rank 1 differs from rank 0 in " in line for line in told),
    }
    found = outcome(checks)
    return Outcome(found.why and f"{fault}: {found.why}\n{program.output}")


def disagreement(folder: Path, random: Random) -> Outcome:
    """Rank 1 is started with something different."""
    what = random.choice(list(disagree_rank.DIFFERENCES))
    arguments = [disagree_rank.__file__, what, "train", *SMALL, "--log.dir", str(folder), "--log.name", "run"]
    with started(arguments, folder, ranks=2, launcher="torchrun", deadline=60) as program:
        while "lockstep: rank 1 has" not in program.output and program.popen.poll() is None:
            time.sleep(0.02)
        took = time.monotonic() - program.began
        program.wait().expect_nothing_left()
    told = [line for line in program.lines if line.startswith("lockstep: rank 1 has ")]
    key = disagree_rank.DIFFERENCES[what]
    checks = {
        f"well before a first step ({took:.1f} s behind the start)": took <= 3 * SOON,
        "rank 1 and the key are named, once": len(told) == 1 and f"rank 1 has {key} " in told[0],
        "nothing was begun": not (folder / "run").exists() and program.code != 0,
    }
    found = outcome(checks, **{"refused after s": took})
    return Outcome(found.why and f"{what}: {found.why}\n{program.output}", found.measures)


ROWS = [
    Row(
        "bad-number",
        "NaN / Inf loss or gradient on one rank",
        "same decision on all before the optimizer step: skip and count",
        "parameters always finite",
        bad_number,
        trials=14,
    ),
    Row(
        "bad-numbers",
        "the same, at every update",
        "stop after k in a row, naming the rank",
        "all",
        bad_numbers,
        trials=5,
    ),
    Row(
        "disagree",
        "ranks disagree (config, code version, shapes, world)",
        "refused before the first step, names rank and key",
        f"within {SOON:g} s",
        disagreement,
        trials=10,
    ),
    Row(
        "flip",
        "silent divergence: one bit of one weight flipped on one rank",
        "caught at the next check, names parameter and rank",
        "all",
        flipped_bit,
        trials=20,
    ),
]
