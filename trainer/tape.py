"""Random numbers drawn ahead of their use: the same numbers, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.types import Draws


class Ask(NamedTuple):
    """A request for random numbers."""

    kind: str
    rows: int
    shape: tuple[int, ...]


class Tape:
    """`types.Draws` that forwards requests, or for a while records them or answers with numbers drawn before.

    device, dtype: of the numbers.
    """

    def __init__(self, draws: Draws, device: torch.device, dtype: torch.dtype) -> None:
        self.draws, self.device, self.dtype = draws, device, dtype
        self.one_noise = draws.one_noise
        self._answer: Callable[[Ask], Tensor] = self._draw

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Return numbers in [0, 1), [rows, *shape]."""
        return self._answer(Ask("uniform", rows, shape))

    def noise(self, rows: int, *shape: int) -> Tensor:
        """Return standard normal numbers, [rows, *shape], or [1, *shape] where all rows have the same noise."""
        return self._answer(Ask("noise", 1 if self.one_noise else rows, shape))

    def draw(self, asked: Sequence[Ask]) -> list[Tensor]:
        """Draw the numbers of all requests, in this order."""
        return [self._draw(ask) for ask in asked]

    def blank(self, ask: Ask) -> Tensor:
        """Return zeros in place of the requested numbers."""
        return torch.zeros(ask.rows, *ask.shape, dtype=self.dtype, device=self.device)

    @contextmanager
    def noting(self) -> Iterator[list[Ask]]:
        """Within it, nothing is drawn: requests are recorded and answered with zeros."""
        asked: list[Ask] = []

        def note(ask: Ask) -> Tensor:
            asked.append(ask)
            return self.blank(ask)

        with self._answering(note):
            yield asked

    @contextmanager
    def playing(self, asked: Sequence[Ask], drawn: Sequence[Tensor]) -> Iterator[None]:
        """Within it, the same requests are answered with `drawn`."""
        answers = iter(list(zip(asked, drawn, strict=True)))

        def play(ask: Ask) -> Tensor:
            expected, answer = next(answers)
            assert ask == expected, "a loss asks for the same numbers at every update"
            return answer

        with self._answering(play):
            yield

    def _draw(self, ask: Ask) -> Tensor:
        if ask.kind == "uniform":
            return self.draws.uniform(ask.rows, *ask.shape)
        return self.draws.noise(ask.rows, *ask.shape)

    @contextmanager
    def _answering(self, answer: Callable[[Ask], Tensor]) -> Iterator[None]:
        self._answer = answer
        try:
            yield
        finally:
            self._answer = self._draw
