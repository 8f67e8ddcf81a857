"""The collector looks for cycles rarely during training, as usual after it, and never leaves them for good."""

from __future__ import annotations

import gc
import weakref

import pytest

from trainer.runtime.garbage import YOUNG, rarely_collected


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_left_alone_and_everything_is_as_before_behind_it() -> None:
    gc.unfreeze()  # Python 3.12 begins with some objects frozen
    thresholds = gc.get_threshold()
    with pytest.raises(ValueError, match="within"), rarely_collected():  # noqa: PT012
        assert gc.get_threshold() == (YOUNG, *thresholds[1:])
        assert gc.get_freeze_count() > 10_000, "what the imports have made"
        raise ValueError("within")
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0


def test_cycles_do_not_stay() -> None:
    before = weakref.ref(Ring())
    with rarely_collected():
        assert before() is None, "garbage of before is not kept alive"
        within = [weakref.ref(Ring()) for _ in range(2)]
        kept = [[] for _ in range(2 * YOUNG)]  # type: ignore[var-annotated]
        assert all(ring() is None for ring in within), "there is a limit to what waits"
        del kept
