"""Weights & Biases: online where the user is logged in, else offline in the run folder; nothing waits for it."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from trainer.types import State

TIMEOUT = 30.0
"""How long the service may take to start, to finish, and to hold up the end of the run [s]."""
MAX_WAITING = 10_000
"""Rows to queue while the service does not answer; later ones are lost."""
MAX_FAILURES = 3
"""Failures in a row after which logging stops."""


class WandbSink:
    """Hands rows to a thread, which alone talks to the service: whatever that does, training goes on.

    The thread starts at the first row, when it is known whether a checkpoint names the run to continue. A failed start
    is final. Messages of the thread are printed by the next call, because the console belongs to the caller.
    """

    def __init__(
        self, run_dir: Path, project: str, name: str, config: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        self._run_dir = run_dir
        self._project = project
        self._name = name
        self._config = config
        self._warn = warn
        self._id = uuid.uuid4().hex[:8]
        self._rows: SimpleQueue[dict[str, float] | None] = SimpleQueue()  # None: the end
        self._told: deque[str] = deque()
        self._thread: threading.Thread | None = None
        self._off = False

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Log one row; the axis is global_step, because the service drops rows whose own step goes back on a resume."""
        self._tell()
        if self._off:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="wandb")
            self._thread.start()
        if self._rows.qsize() < MAX_WAITING:
            self._rows.put({"global_step": env_steps, **values})

    def close(self) -> None:
        """Finish the run, waiting for uploads up to `TIMEOUT`."""
        thread, self._thread, self._off = self._thread, None, True
        if thread is not None:
            self._rows.put(None)
            thread.join(TIMEOUT)
            if thread.is_alive():
                self._told.append(f"Weights & Biases did not finish within {TIMEOUT:g} s; the run ends without it.")
        self._tell()

    def state_dict(self) -> State:
        """Return the id under which a resumed run continues."""
        return {"id": self._id}

    def load_state_dict(self, state: State) -> None:
        """Continue the checkpoint's run."""
        self._id = str(state["id"])

    def _tell(self) -> None:
        while self._told:
            self._warn(self._told.popleft())

    def _work(self) -> None:
        """Do the work of the thread: start the run, log rows until the end, finish."""
        run, failed = self._start(), 0
        while run is not None and failed < MAX_FAILURES and (row := self._rows.get()) is not None:
            try:
                run.log(row)
                failed = 0
            except Exception as error:
                failed += 1
                if failed == MAX_FAILURES:
                    self._off = True
                    self._told.append(f"Logging to wandb is off: {failed} failures in a row, last {error!r}.")
        if run is not None:
            with suppress(Exception):
                run.finish()

    def _start(self) -> Any:
        """Return the service's run, or None if it cannot be had."""
        try:
            import wandb

            # Before anything else, because even the login check prints.
            wandb.setup(settings=wandb.Settings(silent=True, quiet=True))
            modes = _modes(wandb)
        except ImportError:
            return self._give_up("wandb is not installed (pip install 'lockstep[wandb]')")
        except Exception as error:
            return self._give_up(repr(error))
        reason = ""
        for mode in modes:
            try:
                run = self._init(wandb, mode)
            except Exception as error:
                reason = f"{mode}: {error!r}"
                with suppress(Exception):
                    wandb.teardown()  # its service holds the run's id until it ends
            else:
                if reason:
                    self._told.append(f"Weights & Biases records {mode} under {self._run_dir / 'wandb'} ({reason}).")
                return run
        return self._give_up(reason)

    def _init(self, wandb: Any, mode: str) -> Any:
        settings = {"silent": True, "quiet": True, "console": "off"}
        run = wandb.init(
            project=self._project,
            name=self._name,
            id=self._id,
            resume="allow" if mode == "online" else None,  # offline, nobody can be asked; `wandb sync` goes by the id
            dir=str(self._run_dir),
            config=dict(self._config),
            mode=mode,
            settings=wandb.Settings(**settings, init_timeout=TIMEOUT, finish_timeout=TIMEOUT),
        )
        run.define_metric("*", step_metric="global_step")
        return run

    def _give_up(self, reason: str) -> None:
        self._off = True
        self._told.append(f"Nothing goes to Weights & Biases: {reason}.")


def _modes(wandb: Any) -> tuple[str, ...]:
    """Return the modes to try in order. Asks neither the network nor the user.

    The user's choice (WANDB_MODE, `wandb offline`) stands. A node without internet access records offline.
    """
    chosen = wandb.setup().settings.mode
    if chosen != "online":
        return (chosen,)
    return ("online", "offline") if wandb.login(prompt=False, verify=False) else ("offline",)
