"""A run's black box: what each rank did last, kept on disk, so that a dead run can be asked why it died.

RUN/blackbox/life-0003/rank-00001.start.json    who this is: machine, process, versions, settings
                       rank-00001.last.json     where it stands, overwritten once a second: steps, exchange, memory
                       rank-00001.stacks.txt    the stack of every thread at that moment
                       rank-00001.fatal.txt     what a fatal signal left, or a long silence of the interpreter
                       rank-00001.end.json      why it ended, where it could still say so; end.part until then

A rank that exits cleanly removes its files. Nothing here may end a run or hold it up: what fails is left out, and a
disk that no longer responds stops one thread. That is why none of it is a mapped file, although one would survive a
SIGKILL exact to the step: a process that touches one whose disk has failed is ended by SIGBUS. Instead each rank has an
unnamed page of memory, which the others on its machine also map, and can read when it is gone. Needs no torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from trainer.runtime import machine, page
from trainer.runtime.spans import Exchange, Spans

FOLDER = "blackbox"
EVERY = 1.0
"""Time between two looks at a rank [s]; a SIGKILL loses this much of its last moments."""
KEPT = 5
"""Lives of a run whose boxes are kept."""
_SILENCE = 30  # missed looks after which the stacks are written without the interpreter
_LOOKS_AT_MEMORY = 5  # looks per reading of the control groups
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_RESERVED = 16_384  # bytes
_WRITING = 3.0  # s that an ending process has to write why
_JOIN = 5.0  # s
_TELLING = ("RANK", "WORLD_SIZE", "HOSTNAME", "TZ", "LANG")
_TELLING_PREFIXES = (
    *("LOCAL_", "GROUP_", "MASTER_", "SLURM_", "TORCH", "LOCKSTEP_", "NCCL_", "GLOO_", "CUDA_", "NVIDIA_", "PYTORCH_"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "MALLOC_", "PYTHON", "LD_"),
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|PWD|CRED|AUTH|JWT|COOKIE|SESSION", re.IGNORECASE)
_LOGIN = re.compile(r"(://)[^/@\s]+@")


class Meeting(Protocol):
    """Knows which exchange of flags or objects a rank is in."""

    @property
    def meeting(self) -> Exchange | None: ...


def next_life(run: Path) -> int:
    """Return the number of the life that begins; rank 0 asks, for all. Removes the boxes of the oldest lives."""
    try:
        old = lives(run)
        for _, folder in old[: len(old) - (KEPT - 1)] if len(old) >= KEPT else []:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return 1
    return old[-1][0] + 1 if old else 1


def lives(run: Path) -> list[tuple[int, Path]]:
    """Return the lives of a run that left boxes, in ascending order. Raises OSError."""
    root = run / FOLDER
    names = [(re.fullmatch(r"life-([0-9]{4,9})", path.name), path) for path in root.iterdir()] if root.is_dir() else []
    return sorted((int(match[1]), path) for match, path in names if match)


class _Reserved:
    """A file that is overwritten again and again, and still can be when the disk is full: blanks pad the text."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, _FLAGS, 0o644)
        self._size = _RESERVED
        self.write(b"")

    def write(self, text: bytes) -> None:
        os.pwrite(self.handle, text.ljust(self._size), 0)
        self._size = len(text)


class Box:
    """The black box of one rank in one life of its run.

    meeting: knows which exchange this rank is in; about: what else to record about it, JSON.
    """

    def __init__(self, run: Path, life: int, rank: int, meeting: Meeting, about: Mapping[str, Any]) -> None:
        self.rank, self._meeting = rank, meeting
        self.folder = run / FOLDER / f"life-{life:04d}"
        self._spans: Spans | None = None
        self._asked: Callable[[], str | None] = lambda: None
        self._near: dict[int, page.Neighbour] = {}  # other ranks of this machine
        self.page = page.memory_without_a_name()  # its file descriptor in this process; -1: none
        self._phase: str | None = None  # where an exception came from
        self._free: machine.Memory | None = None
        self._looks, self._open = 0, False
        self._writing, self._ending = threading.Lock(), threading.Lock()
        self._done, self._told = threading.Event(), threading.Event()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path("start.json").write_text(json.dumps(_self_portrait() | dict(about), indent=1) + "\n")
            self._last, self._end = _Reserved(self.path("last.json")), _Reserved(self.path("end.part"))
            self._stacks, self._fatal = (
                os.open(self.path(name), _FLAGS, 0o644) for name in ("stacks.txt", "fatal.txt")
            )
        except OSError as error:
            self._remove()
            print(f"lockstep: no black box: {error}; training continues without one", file=sys.stderr, flush=True)
            return
        self._open = True
        faulthandler.enable(self._fatal)
        os.register_at_fork(after_in_child=faulthandler.disable)  # environment processes are not this rank
        self._thread = threading.Thread(target=self._loop, name="black-box", daemon=True)
        self._thread.start()

    def path(self, name: str) -> Path:
        """Name a file of this rank."""
        return self.folder / f"rank-{self.rank:05d}.{name}"

    def follow(
        self,
        spans: Spans,
        asked: Callable[[], str | None],
        places: Sequence[tuple[str, int, int]],
        pages: Sequence[int],
    ) -> None:
        """Watch a run from now on: what it does, and the signal that asked it to stop.

        places, pages: (machine, parent, process) and `page` of every rank.
        """
        with contextlib.suppress(OSError, ValueError):
            spans.page = page.write_into(self.page)
        here = places[self.rank][:2]
        for rank, (place, number) in enumerate(zip(places, pages, strict=True)):
            if place[:2] == here and rank != self.rank:
                self._near[rank] = page.meet(place[2], number)
        self._spans, self._asked = spans, asked

    def close(self, kind: str, cause: str, error: BaseException | None = None) -> None:
        """Write why this process ends; the first caller's reason counts, others wait until it is written.

        kind: failed, agreed (found by all ranks at once), peer (because of another), watch (a rank hangs).
        """
        if not self._open:
            return
        if self._ending.acquire(blocking=False):
            threading.Thread(target=self._tell, args=(kind, cause, error), name="black-box-end", daemon=True).start()
        self._told.wait(_WRITING)  # a disk that does not respond holds nothing up

    def discard(self) -> None:
        """Exit cleanly: leave nothing behind."""
        if self.page >= 0:
            os.close(self.page)  # the mapping stays
            self.page = -1
        if not self._open:
            return
        self._done.set()
        self._thread.join(_JOIN)
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()
        self._open = False
        for handle in (self._last.handle, self._end.handle, self._stacks, self._fatal):
            os.close(handle)
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"rank-{self.rank:05d}.*"):
                path.unlink(missing_ok=True)
            self.folder.rmdir()  # by the last rank
            self.folder.parent.rmdir()  # where no earlier life has left anything

    def _loop(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                self._write(self._state())
            if self._done.wait(EVERY):
                return

    def _tell(self, kind: str, cause: str, error: BaseException | None) -> None:
        self._done.set()
        told: dict[str, Any] = {"kind": kind, "cause": cause, "at": time.time()}
        if error is not None:
            told["traceback"] = "".join(traceback.format_exception(error))
            if self._spans is not None:
                self._phase = "/".join(self._spans.source(error)[1:]) or None
        with contextlib.suppress(OSError, ValueError):
            self._looks = 0  # at everything
            last = self._state()
            told |= {"step": last["step"], "phase": last["phase"]}
            self._write(last)
        with contextlib.suppress(OSError):
            text = json.dumps(told, indent=1).encode()
            self._end.write(text)
            os.ftruncate(self._end.handle, len(text))
            self.path("end.part").replace(self.path("end.json"))
        self._told.set()

    def _write(self, last: dict[str, Any]) -> None:
        with self._writing:
            # by a thread that needs no interpreter, in case something holds the GIL forever
            faulthandler.dump_traceback_later(_SILENCE * EVERY, file=self._fatal)
            self._last.write(json.dumps(last).encode())
            os.lseek(self._stacks, 0, os.SEEK_SET)
            faulthandler.dump_traceback(self._stacks)
            os.ftruncate(self._stacks, os.lseek(self._stacks, 0, os.SEEK_CUR))

    def _state(self) -> dict[str, Any]:
        now, spans = time.perf_counter(), self._spans
        if self._looks % _LOOKS_AT_MEMORY == 0:
            self._free, self._oom_kills = machine.memory(), machine.oom_kills()
        self._looks += 1
        state: dict[str, Any] = {"at": time.time(), "step": None, "phase": "start", "still": 0.0, "exchange": None}
        state |= {"resident": machine.resident(), "memory": self._free, "oom_kills": self._oom_kills}
        gone = [{"rank": rank} | near.last() for rank, near in self._near.items() if near.is_gone()]
        if spans is None:
            return state | {"gone": gone, "asked": None, "steps": []}
        standing, since = spans.standing()
        exchange = self._meeting.meeting or spans.exchange
        if exchange is not None:
            kind, nbytes, begun = exchange
            state["exchange"] = {"kind": kind, "bytes": nbytes, "for": round(now - begun, 3)}
        rows = list(spans.last)
        state |= {"step": rows[-1][0] if rows else 0, "phase": self._phase or "/".join(standing[1:]) or "other"}
        state |= {"still": round(now - since, 3), "gone": gone, "asked": self._asked()}
        return state | {"steps": [_spent(before, after) for before, after in pairwise(rows)]}


def _spent(before: tuple[int, float, dict[str, float]], after: tuple[int, float, dict[str, float]]) -> dict[str, int]:
    """Return a step's time in total, and by span [us]."""
    spent = {name: int(1e6 * (seconds - before[2].get(name, 0.0))) for name, seconds in after[2].items()}
    return {"step": after[0], "all": int(1e6 * (after[1] - before[1]))} | {k: v for k, v in spent.items() if v}


def _self_portrait() -> dict[str, Any]:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "at": time.time(),
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "pid": os.getpid(),
        "began": machine.began(os.getpid()),
        "argv": ["***" if _SECRET.search(word) else _LOGIN.sub(r"\1***@", word) for word in sys.argv],
        "folder": os.getcwd(),
        "python": sys.version.split()[0],
        "cores": machine.usable_cores(),
        "memory": machine.memory(),
        "oom_kills": machine.oom_kills(),
        "environment": telling(os.environ),
    }


def telling(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that decide how a rank behaves, except any that may be secret."""
    return {
        name: _LOGIN.sub(r"\1***@", value)
        for name, value in sorted(environment.items())
        if (name in _TELLING or name.startswith(_TELLING_PREFIXES)) and not _SECRET.search(name)
    }
