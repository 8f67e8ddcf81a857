"""A disk that is full, read-only or broken, for a while or until the end; real ones, where the system allows it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from launching import checkpoints
from PIL import Image

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import (
    faulty,
    final_state,
    resumes,
    same,
    status,
    supervised,
    undisturbed,
    wait_until,
)
from trainer import checkpoint

SIZE = "16m"
PICTURES = ("--log.tensorboard", "True", "--log.plot", "True", "--log.video", "True")
OFTEN = ("--checkpoint.every", "800")
CASES = (
    *(
        ("full", "while"),
        ("read-only", "while"),
        ("I/O error", "while"),
        ("full", "for good"),
        ("read-only", "for good"),
    ),
    *(
        ("full", "while"),
        ("read-only", "while"),
        ("I/O error", "for good"),
        ("full", "at the end"),
        ("full", "for good"),
    ),
)


def faulty_disk(folder: Path, draw: Draw) -> Outcome:
    """The run folder is a small file system; the run, or the one that resumes it, ends as if nothing had happened."""
    reference = undisturbed(2, *OFTEN)
    what, how_long = CASES[draw.number % len(CASES)]
    run_dir = folder / "run"
    lasts = "for good" in how_long
    limit = "3" if lasts else "1000"
    more = (*OFTEN, *PICTURES, "--checkpoint.failures", limit)
    env = {}
    if what == "I/O error":  # in many disk actions, one after another
        first = draw.randrange(300, 800)
        env = faulty(folder, *(f"write:{draw.randrange(2)}:{first + 100 * i}:eio" for i in range(3 + 9 * lasts)))
    with _small(run_dir):
        with supervised(folder, 2, *more, env=env, restarts=0) as program:
            wait_until(program, lambda: bool(checkpoints(run_dir)), 90)  # from then on there is something to resume
            at_the_end = how_long == "at the end"
            if at_the_end:
                wait_until(program, lambda: "trained " in program.output or status(run_dir)["state"] == "finished", 90)
            else:
                time.sleep(draw.uniform(0.2, 1.5))
            with _broken(what, run_dir):
                if lasts or at_the_end:
                    program.wait()
                else:
                    time.sleep(draw.uniform(1.0, 3.0))
            program.wait().expect_nothing_left()
        told = [line for line in program.lines if line.startswith("lockstep: saving the checkpoint")]
        checks = _whole(run_dir)
        if lasts:
            checks["it ended, saying why, or had trained already"] = (
                "in a row could not be written" in program.output or (program.code == 0)
            )
        else:
            checks |= {"it ended well": program.code == 0, "no restart": not resumes(program)}
        with supervised(folder, 2, *more) as again:
            again.wait().expect_nothing_left()
        checks |= {
            "what goes on with it ends well": again.code == 0,
            "from a checkpoint": bool(resumes(again)),
            "it ended as the undisturbed one, bit for bit": same(final_state(run_dir), reference.state),
        }
    found = outcome(checks, **{"failed saves": float(len(told))})
    return Outcome(found.why and f"{what} {how_long}: {found.why}\n{program.output}", found.measures)


def _whole(run_dir: Path) -> dict[str, bool]:
    """Return the checks of every file under a final name."""
    warnings: list[str] = []
    checkpoint.latest(run_dir / "checkpoints", warnings.append)
    finals = [path for path in run_dir.iterdir() if path.suffix == ".json"]
    log = run_dir / "metrics.jsonl"
    rows = log.read_text() if log.exists() else ""
    return {
        f"every checkpoint under its name is whole ({warnings})": all("unfinished" in line for line in warnings)
        and bool(checkpoints(run_dir)),
        "JSON files are whole": all(_parses(path) for path in finals),
        "rows of the log are whole": (not rows or rows.endswith("\n")) and all(map(json.loads, rows.splitlines())),
        "pictures are whole": all(_opens(path) for path in (*run_dir.glob("*.png"), *run_dir.glob("*.gif"))),
    }


def _parses(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def _opens(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                np.asarray(image)
    except (OSError, EOFError, SyntaxError):
        return False
    return True


@contextlib.contextmanager
def _small(folder: Path) -> Iterator[None]:
    """Mount a small file system on `folder`."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def _broken(what: str, run_dir: Path) -> Iterator[None]:
    """Within the block there is no space, or nothing may be written."""
    if what == "full":
        ballast = run_dir / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        yield
        ballast.unlink()
    elif what == "read-only":
        _mount("--bind", str(run_dir), str(run_dir))
        try:
            _mount("-o", "remount,bind,ro", str(run_dir))
            yield
        finally:
            subprocess.run(["umount", "-l", str(run_dir)], check=True)
    else:
        yield


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"not permitted to mount a file system: {done.stderr.strip()}"


ROWS = [
    Row(
        "disk",
        "disk full, read-only, I/O error in checkpoint, log or video",
        "training goes on with the old checkpoint, warns, retries; stops at k failures",
        "never a truncated file under a final name",
        faulty_disk,
        trials=10,
    )
]
