"""The checkpoints of a run while it trains: each is taken in an instant, and written by a background thread.

One at a time: a save waits for the previous one. A failed save is reported and costs nothing but itself, until too many
fail in a row. All ranks know at the same step, because there each waits for its own thread, and those have agreed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer.checkpoint import layout, snapshot
from trainer.checkpoint.disk import Disk
from trainer.checkpoint.errors import CheckpointError, UntidyError
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.ranks import Ranks
from trainer.checkpoint.snapshot import Base, Part
from trainer.checkpoint.worker import Worker
from trainer.checkpoint.writer import save_parts
from trainer.types import State

_DISK = Disk()


class Saver:
    """Writes the checkpoints of one run into `root`, one folder that all ranks see.

    ranks: the process group of the threads, which nothing else uses; info, keep: as for `save`; failures: how many
    failed saves in a row are an error; warn: takes a line about each failed save, on rank 0, in the thread.

    A checkpoint shares files with the second-to-last, not with the last: a damaged file costs one of the newest two.
    If only one is kept, it shares with the last.
    """

    def __init__(
        self,
        root: Path,
        ranks: Ranks,
        info: State,
        *,
        keep: int,
        failures: int,
        warn: Callable[[str], None],
        disk: Disk = _DISK,
    ) -> None:
        self.root, self.ranks, self.info, self.keep, self.failures = root, ranks, info, keep, failures
        self._warn, self._disk = warn, disk
        self._failed = 0  # saves in a row
        self._stored: list[Base] = []  # by this rank, the newest last
        self._worker, self._begun = Worker("checkpoint"), False
        self._error: Exception | None = None

    def begin(self, step: int, replicated: State, shards: Mapping[int, State]) -> None:
        """Take the states as they are now, and start to write them. A collective; `replicated` is rank 0's.

        `Blocks` in the states must be new ones. Waits for the previous save, and raises what `finish` does.
        """
        self.finish()
        parts, problem = self._freeze(replicated, shards)
        self._begun = True
        self._worker.begin(lambda: self._write(step, parts, problem, list(shards)))

    def finish(self) -> bool:
        """Wait for the save that `begin` started; return whether it is stored. A collective.

        Raises CheckpointError, on every rank, if that is one failure in a row too many.
        """
        if not self._begun:
            return True
        self._worker.wait()
        error, self._begun, self._error = self._error, False, None
        self._stored = [base for base in self._stored if base.usable]
        if error is None:
            self._failed = 0
            return True
        if not isinstance(error, CheckpointError):  # a peer is gone, which is not a storage problem
            raise error
        self._failed += 1
        if self._failed >= self.failures:
            raise CheckpointError(f"{self._failed} checkpoint(s) in a row could not be written: {error}") from error
        return False

    def _freeze(self, replicated: State, shards: Mapping[int, State]) -> tuple[list[Part], Exception | None]:
        """Return the parts of this rank, or what went wrong: to be reported when the ranks meet."""
        apart = min(self.keep, 2)
        base = self._stored[-apart] if len(self._stored) >= apart else None
        states = {layout.shard_stem(shard): state for shard, state in shards.items()}
        if self.ranks.rank == 0:
            states[layout.REPLICATED] = replicated
        parts: list[Part] = []
        try:
            for stem, state in states.items():
                parts.append(snapshot.freeze(stem, state, base))
        except Exception as error:
            _release(parts)
            return [], error
        return parts, None

    def _write(self, step: int, parts: list[Part], problem: Exception | None, shards: Sequence[int]) -> None:
        """Do the work of the thread."""

        def ready() -> list[Part]:
            if problem is not None:
                raise problem
            return parts

        files: dict[str, FileRecord] = {}
        try:
            save_parts(self.root, step, ready, shards, self.info, self.ranks, self.keep, self._disk, files)
        except UntidyError as error:
            self._tell(f"{error}; the next save tries again")
        except Exception as error:
            self._error = error
            if isinstance(error, CheckpointError):
                self._tell(f"{error}; training continues, and the next save tries again")
            return
        finally:
            _release(parts)
        blocks = {part.stem: part.blocks for part in parts}
        self._stored = [*self._stored, Base(layout.final(self.root, step), files, blocks)][-2:]

    def _tell(self, text: str) -> None:
        if self.ranks.rank == 0:
            self._warn(text)


def _release(parts: Sequence[Part]) -> None:
    for part in parts:
        part.release()
