"""SIGKILL while a checkpoint is being written, at one disk action after another."""

from __future__ import annotations

from pathlib import Path

from launching import checkpoints

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import faulty, final_state, happened, resumes, same, steps_of, supervised, undisturbed

SAVES = (0.5, 0.75)  # of the run; there is a checkpoint before each
TRIALS = 30
ACTIONS = {0: 75, 1: 30}
"""About how many disk actions a save has on each of two ranks; one beyond the last belongs to the next save."""


def killed_in_a_save(folder: Path, draw: Draw) -> Outcome:
    """A kill of either rank; the trials are spread evenly over the actions of its save."""
    reference = undisturbed(2, *draw.size.flags)
    rank, share = draw.number % 2, (draw.number // 2) / (TRIALS / 2)
    step, passage = draw.size.step(SAVES[draw.number // 2 % 2]), 1 + int(share * ACTIONS[rank])
    run_dir = folder / "run"
    with supervised(folder, 2, *draw.size.flags, env=faulty(folder, f"write:{rank}:{step}:kill:{passage}")) as program:
        program.wait().expect_nothing_left()
    went_on, stored = resumes(program), checkpoints(run_dir)
    others = sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path not in stored)
    checks = {
        "the fault happened": len(happened(folder)) == 1,
        "the run ended well": program.code == 0,
        f"one restart, from a checkpoint ({went_on})": len(went_on) == 1 and went_on[0] > 0,
        f"no leftovers ({others})": not others,
        "the newest two are kept": steps_of(stored) == [draw.size.step(0.75), draw.size.step(1)],
        "it ended as the undisturbed one, bit for bit": program.code == 0
        and same(final_state(run_dir), reference.state),
    }
    found = outcome(checks)
    return Outcome(found.why and f"action {passage} of rank {rank} at step {step}: {found.why}\n{program.output}")


ROWS = [
    Row(
        "kill-in-save",
        "SIGKILL inside a checkpoint write, at every fault point of it",
        "an incomplete one is never loaded, a good one is always there",
        "never from scratch; no leftovers after the next save; bit-equal",
        killed_in_a_save,
        trials=TRIALS,
    )
]
