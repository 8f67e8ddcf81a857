"""Random numbers drawn ahead: the same numbers, in the same order, in front of what asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.types import Draws


class Ask(NamedTuple):
    """Numbers that were asked for."""

    kind: str
    rows: int
    shape: tuple[int, ...]


class Tape:
    """`types.Draws` that passes on what it is asked, but for a while notes it, or answers with what was drawn before.

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
        """Draw all that will be asked for, in this order."""
        return [self._draw(ask) for ask in asked]

    def blank(self, ask: Ask) -> Tensor:
        """Return zeros in place of what is asked for."""
        return torch.zeros(ask.rows, *ask.shape, dtype=self.dtype, device=self.device)

    @contextmanager
    def noting(self) -> Iterator[list[Ask]]:
        """Within it nothing is drawn, what is asked for is noted, and answered with zeros."""
        asked: list[Ask] = []

        def note(ask: Ask) -> Tensor:
            asked.append(ask)
            return self.blank(ask)

        with self._answering(note):
            yield asked

    @contextmanager
    def playing(self, asked: Sequence[Ask], drawn: Sequence[Tensor]) -> Iterator[None]:
        """Within it the same questions are answered with `drawn`."""
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
