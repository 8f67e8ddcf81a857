"""Parameter servers, in lock-step and at any pace: numbers, bytes and ages; whole runs that resume and that die."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import server_ranks
import torch
from launching import QUIET, Program, checkpoints, metrics, run, started
from server_ranks import asynchronous
from strategy_world import ADAM, CPU, World

from trainer.config import SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group
from trainer.sync.server.ages import Ages, summary

RESUME = Path(__file__).parents[1] / "resume"
ALONE = Launch(0, 0, 1, 1, False)
SERVER = ("--sync.kind", "server")
ASYNC = (*SERVER, "--sync.asynchronous", "True")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_among_ranks(ranks: int, tmp_path: Path) -> None:
    """In lock-step the numbers of an all-reduce; the rest is asserted within `server_ranks`."""
    stored = tmp_path / "outcomes.pt"
    run([server_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=220)
    theirs = torch.load(stored, weights_only=False)
    ages = theirs.pop("ages")
    with process_group(CPU, ALONE, 30.0) as alone:
        ours = server_ranks.lockstep(alone, "flat")
    norms = ours["clipped"]["norms"]
    assert norms.min() < 0.2 < norms.max(), "both sides of the clip"
    assert set(theirs) == {"servers 1", "servers 2", f"servers {ranks}"}
    for servers, found in theirs.items():
        for case, outcome in ours.items():
            assert_close(found[case], outcome, f"{servers}: {case}")
    for (servers, bound), found in ages.items():
        seen = found["measured"]
        assert bound is None or max(seen) <= bound, (servers, bound, seen)
        assert max(seen) >= (1 if bound is None else min(bound, ranks - 1)), "the bound is reached where it can be"
        assert found["report"] == pytest.approx(summary(seen))


def assert_close(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for name in expected:
            assert_close(found[name], expected[name], f"{where}: {name}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=where)
    else:
        assert found == expected, where


@pytest.mark.parametrize("bound", [None, 0, 2])
def test_alone_at_any_pace_is_the_plain_optimizer_bitwise(bound: int | None) -> None:
    with process_group(CPU, ALONE, 30.0) as alone:
        ours, plain = asynchronous(alone, staleness=bound), World(alone, SyncConfig(), ADAM)
        ours.run(20)
        plain.run(20)
        with ours.sync.agreed():
            assert torch.equal(ours.weights, plain.weights)
        assert torch.equal(ours.sync.target.data, plain.sync.target.data)
        assert ours.sync.report()["staleness_max"] == 0


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_order_of_requests_keeps_the_bound_and_never_gets_stuck(workers: int, bound: int) -> None:
    """A random walk of workers that pull, compute, offer their gradient and may be lost."""
    chance, account = random.Random(workers * 10 + bound), Ages(bound)
    version, pulled, offered, oldest = 0, dict[int, int](), set[int](), 0
    alive = set(range(workers))
    for _ in range(3000):
        free = [w for w in alive if w not in pulled] if account.may_pull() else []
        computing = sorted(set(pulled) - offered)
        ready = [w for w in sorted(offered) if account.may_apply(w)]
        assert free or computing or ready, "somebody can always do something"
        act, worker = chance.choice(
            [("pull", w) for w in free] + [("offer", w) for w in computing] + [("apply", w) for w in ready]
        )
        if act == "pull":
            account.pull(worker)
            pulled[worker] = version
        elif act == "offer":
            offered.add(worker)
        else:
            oldest = max(oldest, version - pulled.pop(worker))
            offered.discard(worker)
            account.apply(worker)
            version += 1
        if len(alive) > 1 and chance.random() < 0.001:
            gone = chance.choice(sorted(alive))
            alive.discard(gone)
            account.forget(gone)
            pulled.pop(gone, None)
            offered.discard(gone)
    assert min(bound, workers - 1) <= oldest <= bound, "the bound is kept, and reached where workers suffice"
    assert max(account.seen) == oldest
    assert sum(account.seen.values()) == version == account.version


def test_summary_of_ages() -> None:
    assert summary({}) == {"staleness_mean": 0, "staleness_p95": 0, "staleness_max": 0}
    assert summary({0: 95, 9: 5}) == {"staleness_mean": 0.45, "staleness_p95": 0, "staleness_max": 9}
    assert summary({0: 94, 2: 1, 9: 5}) == {"staleness_mean": 0.47, "staleness_p95": 2, "staleness_max": 9}


def killed_at(step: int, arguments: list[str], folder: Path) -> None:
    """Run on two ranks, the last of which kills itself after a step."""
    killing = [str(RESUME / "killing.py"), json.dumps([(step, arguments)])]
    run(killing, folder, ranks=2, deadline=120, expect=-9)


def trained(folder: Path, name: str, *more: str) -> list[str]:
    return [
        *("train", "debug", "--log.every", "200", "--total_env_steps", "2400", "--checkpoint.every", "1200"),
        *("--eval.episodes", "8", *QUIET, "--log.dir", str(folder), "--log.name", name, *more),
    ]


def unsent(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, without what it sent: a start costs a broadcast, and so does a resume."""
    return [{k: v for k, v in row.items() if k != "sync/megabytes_sent"} for row in metrics(run_dir)]


@pytest.mark.slow  # test_resume_presets resumes every strategy
@pytest.mark.timeout(300)
def test_in_lockstep_a_killed_run_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RESUME))
    from test_resume import assert_same_checkpoint, outcome

    more = (*SERVER, "--sync.servers", "2")
    run(trained(tmp_path, "whole", *more), tmp_path, ranks=2, deadline=120)
    killed_at(211, trained(tmp_path, "killed", *more), tmp_path)
    one, other = tmp_path / "whole", tmp_path / "killed"
    assert len(checkpoints(other)) == 1
    run(["train", "--resume", str(other)], tmp_path, ranks=2, deadline=120)
    assert_same_checkpoint(checkpoints(one)[-1], checkpoints(other)[-1])
    assert unsent(one) == unsent(other)
    assert outcome(one) == outcome(other)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_at_any_pace_a_killed_run_resumes(tmp_path: Path) -> None:
    """Not bitwise, as the order of gradients is not fixed; with all updates, ages in the log, later as all-reduce."""
    arguments = trained(tmp_path, "run", *ASYNC, "--sync.staleness", "1", "--replay.kind", "prioritized")
    killed_at(211, arguments, tmp_path)
    run_dir = tmp_path / "run"
    said = run(["train", "--resume", str(run_dir)], tmp_path, ranks=2, deadline=120).output
    assert "resumed at 1,200 env steps" in said
    assert "continues without" not in said, "a run that ends loses nobody"
    results = json.loads((run_dir / "results.json").read_text())
    assert results["updates"] == (2400 - 500) // 8
    rows = [row for row in metrics(run_dir) if "sync/staleness_max" in row]
    assert [row["global_step"] for row in rows] == list(range(200, 2401, 200))
    assert {row["sync/staleness_max"] for row in rows} <= {0, 1}
    flat = ["train", "--resume", str(run_dir), "--sync.kind", "flat", "--sync.asynchronous", "False"]
    again = run(
        [*flat, "--sync.staleness", "None", "--total_env_steps", "3200"], tmp_path, ranks=2, deadline=120
    ).output
    assert "2 ranks by server" in again


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SERVER, ASYNC], ids=["in lock-step", "at any pace"])
@pytest.mark.timeout(150)
def test_a_killed_rank_ends_a_run(kind: tuple[str, ...], tmp_path: Path) -> None:
    """Although a server could go on without it, the launcher ends all ranks with one."""
    fault = {"rank": 1, "at": 150, "note": str(tmp_path / "fault")}
    arguments = [
        *("train", "debug", "--env.id", "tests_envs:Killed-v0", "--env.kwargs", json.dumps(fault), *kind),
        *("--log.dir", str(tmp_path), "--log.name", "run", "--total_env_steps", "2000000"),
        *("--runtime.timeout", "20", "--checkpoint.every", "0", *QUIET),
    ]
    program: Program
    with started(arguments, tmp_path, ranks=2, deadline=120) as program:
        program.wait()
        program.expect_nothing_left()
    assert program.code not in (0, None), program.output
    assert "rank 1 failed first" in program.lines[-1], program.output
    assert "Signal 9 (SIGKILL)" in program.lines[-1], program.output
