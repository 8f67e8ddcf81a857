"""Weights & Biases: online where the user is logged in, else offline in the run folder; never a reason to stop."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.types import State

TIMEOUT = 30.0
"""How long the service may hold up the run at its start and at its end [s]."""


class WandbSink:
    """Starts at the first row, when it is known whether a checkpoint names the run to go on with.

    A start that fails is final, as each try may cost `TIMEOUT`; errors of later rows are left to the caller.
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
        self._run: Any = None
        self._off = False

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Log one row; the axis is global_step, because the service drops rows whose own step goes back on a resume."""
        if self._run is None and not self._off:
            self._start()
        if self._run is not None:
            self._run.log({"global_step": env_steps, **values})

    def close(self) -> None:
        """Finish the run, waiting for uploads up to `TIMEOUT`."""
        run, self._run, self._off = self._run, None, True
        if run is not None:
            run.finish()

    def state_dict(self) -> State:
        """Return the id under which a resumed run goes on."""
        return {"id": self._id}

    def load_state_dict(self, state: State) -> None:
        """Go on with the checkpoint's run."""
        self._id = str(state["id"])

    def _start(self) -> None:
        try:
            import wandb

            # Before anything else, because already the login check prints.
            wandb.setup(settings=wandb.Settings(silent=True, quiet=True))
            modes = _modes(wandb)
        except ImportError:
            self._give_up("wandb is not installed (pip install 'lockstep[wandb]')")
            return
        except Exception as error:
            self._give_up(repr(error))
            return
        reason = ""
        for mode in modes:
            try:
                self._run = self._init(wandb, mode)
            except Exception as error:
                reason = f"{mode}: {error!r}"
                with suppress(Exception):
                    wandb.teardown()  # its service holds the run's id until it ends
            else:
                if reason:
                    self._warn(f"Weights & Biases records {mode} under {self._run_dir / 'wandb'} ({reason}).")
                return
        self._give_up(reason)

    def _init(self, wandb: Any, mode: str) -> Any:
        settings = {"silent": True, "quiet": True, "console": "off"}
        run = wandb.init(
            project=self._project,
            name=self._name,
            id=self._id,
            resume="allow" if mode == "online" else None,  # offline nobody can be asked; `wandb sync` goes by the id
            dir=str(self._run_dir),
            config=dict(self._config),
            mode=mode,
            settings=wandb.Settings(**settings, init_timeout=TIMEOUT, finish_timeout=TIMEOUT),
        )
        run.define_metric("*", step_metric="global_step")
        return run

    def _give_up(self, reason: str) -> None:
        self._off = True
        self._warn(f"Nothing goes to Weights & Biases: {reason}.")


def _modes(wandb: Any) -> tuple[str, ...]:
    """Return the modes to try in order. Asks neither the network nor the user.

    What the user chose (WANDB_MODE, `wandb offline`) stands. A node without a way out records offline.
    """
    chosen = wandb.setup().settings.mode
    if chosen != "online":
        return (chosen,)
    return ("online", "offline") if wandb.login(prompt=False, verify=False) else ("offline",)
