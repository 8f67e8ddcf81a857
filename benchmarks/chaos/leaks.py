"""Memory, file descriptors and shared memory of a long run, and of a launcher that restarted its ranks many times."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import begun, files_left, ranks_up, supervised, wait_until

STEPS = 1_000_000
SHORT = 100_000
RESTARTS = 20
GROWTH = 1.0  # %
WARM = 12_000  # env steps, by which the replay memory is full
SHM = Path("/dev/shm")


def long_run(steps: int) -> Row:
    def trial(folder: Path, draw: Draw) -> Outcome:
        """Two ranks; the least memory and files they held in the last fifth of the run, against the second fifth.

        The least, because usage moves up and down by a percent with every checkpoint and evaluation.
        """
        before = _shared()
        more = (
            "--total_env_steps",
            str(steps),
            "--checkpoint.every",
            str(steps // 50),
            "--eval.every",
            str(steps // 10),
        )
        run_dir, seen = folder / "run", {0: [], 1: []}  # type: dict[int, list[tuple[int, int, int]]]
        with supervised(folder, 2, *more, "--log.tensorboard", "True", restarts=0, deadline=3000) as program:
            wait_until(program, lambda: begun(run_dir) > 0, 90)
            pids = {rank: program.rank_pid(rank) for rank in seen}
            while program.popen.poll() is None and time.monotonic() < program.deadline:
                for rank, pid in pids.items():
                    seen[rank] += ((_env_steps(run_dir), *one) for one in _size(pid))
                time.sleep(1.0)
            program.wait().expect_nothing_left()
        growth, files = 0.0, 0
        for samples in seen.values():
            warm = [one for one in samples if 0.2 * steps <= one[0] <= 0.4 * steps]
            last = [one for one in samples if 0.8 * steps <= one[0] < steps]
            if not warm or not last:
                return Outcome(f"too few samples of {len(samples)}\n{program.output}")
            ratio = min(one[1] for one in last) / min(one[1] for one in warm)
            growth = max(growth, 100 * (ratio - 1))
            files = max(files, min(one[2] for one in last) - min(one[2] for one in warm))
        checks = {
            "the run ended well": program.code == 0,
            f"memory grew by {GROWTH:g} % or less ({growth:.2f})": growth <= GROWTH,
            f"no more open files ({files:+})": files <= 0,
            "nothing is left in shared memory": _shared() <= before,
        }
        return outcome(checks, **{"growth %": growth})

    name = f"{steps:g} env steps"
    return Row(
        "leak",
        f"{name}, 2 ranks",
        "nothing leaks",
        f"<= {GROWTH:g} % RSS growth after warm-up",
        trial,
        trials=1,
        short=0,
    )


def restarts(folder: Path, draw: Draw) -> Outcome:
    """Ranks killed repeatedly under one launcher: what it holds, and what each life of the ranks takes."""
    before = _shared()
    (temporary := folder / "temporary").mkdir()
    run_dir, launcher, ranks = folder / "run", [], []  # type: Path, list[tuple[int, int]], list[int]
    more = ("--total_env_steps", "100000000", "--checkpoint.every", "1000")
    with supervised(folder, 2, *more, restarts=RESTARTS + 1, deadline=1500, env={"TMPDIR": str(temporary)}) as program:
        wait_until(program, lambda: _env_steps(run_dir) > WARM, 300)
        at = 0.0
        for life in range(RESTARTS + 1):
            wait_until(program, lambda at=at: begun(run_dir) > at and ranks_up(program, 2), 90)
            time.sleep(2.0)
            launcher += _size(program.popen.pid)
            ranks += [size for size, _ in _size(program.rank_pid(0))]
            at = time.time()
            if life < RESTARTS:
                os.kill(program.rank_pid(draw.randrange(2)), signal.SIGKILL)
        os.kill(program.popen.pid, signal.SIGTERM)
        program.wait().expect_nothing_left()
    left = files_left(temporary)
    growth = 100 * (statistics.median(ranks[-5:]) / statistics.median(ranks[1:6]) - 1)
    held = 100 * (launcher[-1][0] / launcher[2][0] - 1)
    checks = {
        f"{RESTARTS} restarts": "resumed at" in program.output and len(ranks) == RESTARTS + 1,
        f"a life takes no more memory than one before ({growth:.2f} %)": growth <= GROWTH,
        f"nor does the launcher ({held:.2f} %)": held <= GROWTH,
        f"the launcher has no more files open ({launcher[-1][1] - launcher[2][1]:+})": launcher[-1][1]
        <= launcher[2][1],
        "nothing is left in shared memory": _shared() <= before,
        f"nor files in the temporary folder ({left[:3]})": not left,
        "no unfinished checkpoint is left": not list((run_dir / "checkpoints").glob(".*")),
    }
    return outcome(checks, **{"growth of a life %": growth, "growth of the launcher %": held})


def _size(pid: int) -> Iterator[tuple[int, int]]:
    """Yield the resident memory of a process [kB] and its open files; nothing if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (resident,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        yield resident, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ValueError):
        return


def _env_steps(run_dir: Path) -> int:
    rows = run_dir / "metrics.jsonl"
    last = rows.read_bytes()[-4000:].splitlines() if rows.exists() else []
    return int(last[-1].partition(b'"global_step": ')[2].partition(b",")[0] or 0) if last else 0


def _shared() -> set[str]:
    return set(os.listdir(SHM)) if SHM.is_dir() else set()


ROWS = [
    long_run(STEPS),
    Row(
        "leak-restarts",
        f"{RESTARTS} restarts",
        "nothing leaks",
        f"<= {GROWTH:g} % RSS growth; no /dev/shm or file-descriptor leftovers",
        restarts,
        trials=1,
        short=0,
    ),
]
