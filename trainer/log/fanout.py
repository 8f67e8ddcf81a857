"""One logger over many sinks, none of which can stop a run; knows no concrete sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

from trainer.types import State, Stateful

MAX_FAILURES = 3
"""Failures in a row after which a sink is given up."""


class Sink(Stateful, Protocol):
    """Somewhere that rows of metrics go."""

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class View(Protocol):
    """What a person watches."""

    def progress(self, values: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


class FanOut:
    """Hands every call to every sink that still works; only KeyboardInterrupt and the like get through."""

    def __init__(self, view: View, sinks: Mapping[str, Sink]) -> None:
        self._view = view
        self._sinks = dict(sinks)
        self._failures = dict.fromkeys(("console", *sinks), 0)

    def metrics(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Write one row to every sink; `values` maps CleanRL's names to numbers."""
        for name, sink in self._sinks.items():
            self._guard(name, partial(sink.metrics, env_steps, values))

    def progress(self, values: Mapping[str, float]) -> None:
        """Redraw the live line."""
        self._guard("console", partial(self._view.progress, values))

    def message(self, text: str) -> None:
        """Print above the live line."""
        self._guard("console", partial(self._view.message, text))

    def close(self) -> None:
        """Flush and close every sink, also those given up; the console last, as closing may have something to say."""
        for sink in self._sinks.values():
            with suppress(Exception):
                sink.close()
        with suppress(Exception):
            self._view.close()

    def state_dict(self) -> State:
        """Return name -> state of every sink, also those given up: their files are still on disk."""
        return {name: sink.state_dict() for name, sink in self._sinks.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore the sinks that `state` knows; one that was switched on since starts fresh."""
        for name, sink in self._sinks.items():
            if name in state:
                self._guard(name, partial(sink.load_state_dict, state[name]))

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        if self._failures[name] >= MAX_FAILURES:
            return
        try:
            call()
        except Exception as error:
            self._failures[name] += 1
            if self._failures[name] == MAX_FAILURES and name != "console":
                self.message(f"Logging to {name} is off: {MAX_FAILURES} failures in a row, last {error!r}.")
        else:
            self._failures[name] = 0
