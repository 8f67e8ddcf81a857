"""Rows of four ranks predicted from rows of one and two, on machines whose truth is known."""

from __future__ import annotations

import pytest

from benchmarks.simulate import fit


def row(ranks: int, seconds: dict[str, float], env_steps: float, **more: object) -> dict[str, object]:
    """A row as benchmarks.scaling writes it, of ranks that spend these seconds on an update."""
    whole = sum(seconds.values())
    return {
        "work": "cartpole",
        "mode": "weak",
        "strategy": "flat",
        "ranks": ranks,
        "cores": 2,
        "env_steps_per_s": [env_steps / whole] * 2,
        "updates_per_s": [1 / whole] * 2,
        "shares": {part: spent / whole for part, spent in seconds.items()},
    } | more


@pytest.mark.parametrize("waits", [True, False], ids=["envs wait", "envs compute"])
@pytest.mark.parametrize("hides", [True, False], ids=["hidden in learning", "by itself"])
def test_rows_of_few_ranks_foretell_more(waits: bool, hides: bool) -> None:
    """A core-bound part, environments that wait for something or need a core too, and a ring of messages."""

    def truth(ranks: int) -> dict[str, object]:
        over = max(0.0, ranks / 2 - 1)
        crowd = 1 + (fit.MEET if waits else 1.0) * over
        spent = {"act": 0.2 * crowd, "learn": 1.0 * crowd, "other": 0.1 * crowd, "env": 0.5 * (1 if waits else crowd)}
        sync = 0.05 * (ranks - 1) * (1 if waits else crowd)
        hidden = sync if hides and ranks > 1 else 0.0
        spent |= {"learn": spent["learn"] + hidden, "sync": sync - hidden}
        return row(ranks, spent, 8.0 * ranks, work="paced" if waits else "cartpole")

    (one,) = fit.checks([truth(1), truth(2), truth(4)])
    assert one.error == pytest.approx(0.0, abs=1e-9)
    assert one.passed
    (wrong,) = fit.checks([truth(1), truth(2), truth(4) | {"env_steps_per_s": [1.0, 1.0]}])
    assert not wrong.passed


def test_under_strong_scaling_the_shared_part_shrinks() -> None:
    """learn = 0.4 + 1.6 / ranks on as many cores as ranks."""

    def truth(ranks: int) -> dict[str, object]:
        spent = {"act": 0.1, "learn": 0.4 + 1.6 / ranks, "other": 0.1, "env": 0.2, "sync": 0.02 * (ranks - 1)}
        return row(ranks, spent, 8.0, mode="strong", cores=4)

    (one,) = fit.checks([truth(1), truth(2), truth(4)])
    assert one.error == pytest.approx(0.0, abs=1e-9)


def test_gossip_is_held_up_by_its_neighbours_alone() -> None:
    assert [fit.messages("gossip", ranks) for ranks in (2, 4, 16)] == [1, 2, 4]
    assert [fit.messages("flat", ranks) for ranks in (2, 4, 16)] == [1, 3, 15]


def test_rows_without_companions_are_not_checked() -> None:
    assert fit.checks([row(1, {"learn": 1.0, "sync": 0.0}, 8), row(4, {"learn": 1.0, "sync": 0.1}, 8)]) == []
    assert "no rows" in fit.report([])
