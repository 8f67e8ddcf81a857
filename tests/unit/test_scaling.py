"""The scaling benchmark: what is computed from rows, what is refused, and real runs of its smallest form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import comm, comm_bytes, scaling, scaling_runs, slow
from benchmarks import scaling_maths as maths
from benchmarks.report_figures import STYLE
from benchmarks.scaling_cases import APART, STRATEGIES, SUITES, chosen
from benchmarks.scaling_runs import Processes, RunError
from benchmarks.slow_env import PacedCatch
from benchmarks.slow_maths import Note, at, pace
from benchmarks.slow_net import Network, why_not
from trainer.cli import parse_train

ROOT = Path(__file__).parents[2]


def metrics(speeds: Sequence[float], updates: Sequence[int], **more: float) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, 100 env steps apart."""
    return [
        {"global_step": 100 * (i + 1), "charts/SPS": sps, "charts/updates": float(done), **more}
        for i, (sps, done) in enumerate(zip(speeds, updates, strict=True))
    ]


def row(strategy: str, ranks: int, rates: Sequence[float], **more: Any) -> dict[str, Any]:
    machine = {"time": "2026-01-01", "cpu": "c", "cores": 2, "gpus": [], "commit": "abc", "command": "python -m x"}
    return {
        **machine,
        "versions": {"torch": "2"},
        "work": "paced",
        "mode": "weak",
        "strategy": strategy,
        "ranks": ranks,
        "env_steps": 100,
        "env_steps_per_s": list(rates),
        "updates_per_s": [1.0] * len(rates),
        "shares": {"act": 0.1, "env": 0.2, "learn": 0.3, "sync": 0.3, "other": 0.1},
        "megabytes_per_update": 0.03,
        "return": [0.5],
        "curves": [[(100, 1.0, -0.5), (200, 2.0, 0.5)]],
        **more,
    }


def test_speed_counts_from_the_row_behind_the_first_update() -> None:
    told = metrics([50, 10, 100, 50], [0, 5, 15, 35], **{"time/share_sync": 0.25, "sync/megabytes_sent": 3.0})
    found = maths.speed(told)
    assert found.seconds == pytest.approx(1 + 2)
    assert found.env_steps_per_s == pytest.approx(200 / 3)
    assert found.updates_per_s == pytest.approx(30 / 3)
    assert found.megabytes_per_update == pytest.approx(6 / 30)
    assert found.shares["sync"] == pytest.approx(0.25)
    assert sum(found.shares.values()) == pytest.approx(1)


def test_shares_weigh_rows_by_their_seconds() -> None:
    told = metrics([100, 100, 100, 25], [1, 2, 3, 4])
    for one, share in zip(told, (0.9, 0.9, 0.0, 0.5), strict=True):
        one["time/share_learn"] = share
    assert maths.speed(told).shares["learn"] == pytest.approx((1 * 0.9 + 1 * 0.0 + 4 * 0.5) / 6)


def test_evaluation_rows_are_no_speed() -> None:
    told = metrics([10, 10, 10], [1, 2, 3])
    told.insert(2, {"global_step": 200, "eval/return_mean": 5.0})
    assert maths.speed(told).env_steps_per_s == pytest.approx(10)


@pytest.mark.parametrize("updates", [[], [0, 0, 0], [0, 0, 1]])
def test_a_run_that_hardly_learned_is_not_measured(updates: list[int]) -> None:
    with pytest.raises(ValueError, match="more env steps"):
        maths.speed(metrics([10.0] * len(updates), updates))


def test_a_curve_keeps_ends_of_groups_and_means() -> None:
    told = metrics([100, 50, 100], [1, 2, 3])
    told[0]["charts/episodic_return"], told[2]["charts/episodic_return"] = 1.0, 3.0
    assert maths.curve(told) == [(100, 1.0, 1.0), (300, 4.0, 3.0)]
    assert maths.thinned([(i, float(i), float(i)) for i in range(1, 6)], 2) == [(3, 3.0, 2.0), (5, 5.0, 4.5)]
    assert maths.thinned([]) == []


def test_efficiency_is_taken_within_a_repeat() -> None:
    base, two = row("flat", 1, [100, 50]), row("flat", 2, [100, 100])
    assert maths.efficiency(two, base) == (0.75, 0.5, 1.0)
    other_time = row("flat", 2, [150, 75], time="2026-02-02")
    assert maths.efficiency(other_time, base) == (0.75, 0.5, 1.0), "of the base's median, 75"


def test_the_base_is_the_fewest_ranks_of_the_same_setting() -> None:
    one, two, four = row("flat", 1, [1]), row("ddp", 2, [1]), row("ddp", 4, [1])
    strangers = [row("flat", 1, [9], mode="strong"), row("flat", 1, [9], cpu="d"), row("flat", 1, [9], env_steps=7)]
    assert maths.base_of(four, [two, one, *strangers, four]) is one
    assert maths.base_of(one, [one, two, four]) is None
    newer = row("flat", 1, [2], time="2027")
    assert maths.base_of(four, [one, newer]) is one, "of the same invocation"
    assert maths.base_of(row("ddp", 4, [1], time="2028"), [one, newer]) is newer


def test_the_newest_row_of_a_setting_counts() -> None:
    told = [row("flat", 1, [1]), row("flat", 2, [2]), row("flat", 1, [3])]
    assert [r["env_steps_per_s"] for r in maths.latest(told, ("strategy", "ranks"))] == [[3], [2]]


def test_notes_are_interpolated() -> None:
    notes = [Note(10, 0, 0, 0), Note(12, 20, 4, -4), Note(14, 60, 8, 4)]
    assert at(notes, 11) == (11, 10, 2, -2)
    assert at(notes, 13).steps == 40
    assert at(notes, 9).steps == 0
    assert at(notes, 99).steps == 60


def test_pace_of_ranks_and_their_return() -> None:
    slow_rank = [Note(0, 0, 0, 0), Note(8, 80, 8, -8)]
    quick = [Note(0, 0, 0, 0), Note(6, 240, 24, -24), Note(8, 320, 32, -16)]
    found = pace([slow_rank, quick], 0, 8, envs=16, every=8)
    assert found.gradients_per_s == [20, 80]
    assert found.final == pytest.approx((8 - 2) / (8 + 2)), "of the last quarter"
    assert found.curve[0] == (1, -1)
    assert found.curve[-1][0] == 8


def test_one_rank_is_measured_once() -> None:
    cases = scaling.plan(["flat", "gossip"], ["weak", "strong"], [1, 2])
    assert [case.name for case in cases] == [
        *("flat-weak-1", "flat-strong-1", "flat-weak-2", "gossip-weak-2", "flat-strong-2", "gossip-strong-2")
    ]


def test_what_the_trainer_refuses_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    @contextmanager
    def start(flags: Sequence[str], ranks: int, said: Path) -> Iterator[Processes]:
        kind = flags[flags.index("--sync.kind") + 1]
        asked.append(kind)
        if kind == "gossip":
            raise RunError("sync.kind gossip: no", refused=True)
        if kind == "zero1":
            raise RunError("rank 1 failed first")
        run = tmp_path / flags[flags.index("--log.name") + 1]
        run.mkdir()
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in metrics([10, 10], [1, 2])))
        (run / "results.json").write_text(json.dumps({"seconds": 3.0}))
        yield Processes([], [])

    options = scaling.parser().parse_args(["--repeats", "2", "--work", "toy"])
    for strategies, sound in ((["gossip", "flat"], True), (["zero1"], False)):
        cases = scaling.plan(strategies, ["weak"], [2])
        found, fine = scaling.measure(options, cases, [], tmp_path, start)
        assert fine is sound
        assert [(r["strategy"], r["repeats"]) for r in found] == ([("flat", 2)] if sound else [])
    assert asked == ["gossip", "flat", "flat", "zero1"], "what was refused is not asked again"
    said = capsys.readouterr().out
    assert "gossip-weak-2: left out: sync.kind gossip: no" in said
    assert "zero1-weak-2: FAILED: rank 1 failed first" in said


def test_a_run_that_never_ends_is_ended(tmp_path: Path) -> None:
    sleeps = ("-c", "import time; print('lockstep: here', flush=True); time.sleep(60)")
    with scaling_runs.started([], 2, tmp_path, module=sleeps) as processes:
        began = time.monotonic()
        with pytest.raises(RunError, match="still running after 1 s"):
            processes.wait(1.0)
        assert time.monotonic() - began < 20
        assert all(popen.poll() is not None for popen in processes.popens)


def test_the_first_cause_is_told(tmp_path: Path) -> None:
    code = "import os, sys; print('lockstep: ' + ('stops because of' if os.environ['RANK'] == '1' else 'the cause'))"
    with scaling_runs.started([], 2, tmp_path, module=("-c", f"{code}; sys.exit(2)")) as processes:
        with pytest.raises(RunError, match=r"^the cause$") as caught:
            processes.wait(30.0)
        assert caught.value.refused


def test_unknown_strategies_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(["--strategies", "gosip"])
    assert "--strategies gosip: unknown; use all, or some of flat, sockets, ddp" in capsys.readouterr().err


def test_suites_name_what_there_is() -> None:
    for suite in SUITES.values():
        for what, *flags in suite:
            if what == "scaling":
                options, extra = scaling.parser().parse_known_args(flags)
                assert not extra
                assert set(options.strategies) <= {*STRATEGIES, "all"}
            assert what in ("scaling", "slow", "comm", "report")


def test_replicas_apart_are_measured_by_name_and_here_alone() -> None:
    asks = scaling.parser()
    assert chosen(["flat", "apart"], asks, APART) == ["flat", "apart"]
    assert chosen(["all"], asks, APART) == list(STRATEGIES)
    with pytest.raises(SystemExit):
        chosen(["apart"], asks)
    sync = parse_train(["debug", *APART["apart"]]).config.sync
    assert sync.period > 1e6, "they never meet in a run that is measured"


def test_every_strategy_has_a_formula_and_a_colour() -> None:
    assert comm_bytes.FORMULAS.keys() == STRATEGIES.keys() == STYLE.keys()
    shape = comm_bytes.Shape([(64, 32), (64,)], ranks=4)
    size = 4 * (64 * 32 + 64)
    told = {name: formula(shape) for name, (_, formula) in comm_bytes.FORMULAS.items()}
    assert told["flat"] == 2 * size * 3
    assert told["fp16"] == size * 3
    assert told["gossip"] == (size + 4) * 4
    assert told["local_sgd"] == 2 * size * 3 / 16
    assert told["powersgd"] == 2 * 3 * 4 * (4 * (64 + 32) + 64)
    assert told["topk"] == 21 * 8 * 4 * 3
    assert told["zero1"] == 3 * 3 * 4 * 2112 + 4 * 4 * 3, "2112 elements are a multiple of 4 x 16"


def test_paced_catch_plays_catch_and_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("benchmarks.slow_env.NOTE_EVERY", 0.0)
    env = PacedCatch(4, pace=0.5, slow_rank=1, factor=3.0, notes=str(tmp_path))
    obs, _ = env.reset(seed=1)
    assert obs.shape == (4, 50)
    total = np.zeros(4)
    for _ in range(30):  # an episode is 9 steps, and one more that begins the next
        obs, reward, terminated, truncated, _ = env.step(np.ones(4, dtype=np.int64))
        assert ((reward != 0) == terminated).all()
        assert not truncated.any()
        total += reward
    assert set(slept) == {4 * 0.5 * 3.0}
    notes = [json.loads(line) for line in (tmp_path / "rank-1.jsonl").read_text().splitlines()]
    assert notes[-1][1:] == [30, 12, total.sum()]


def test_sleeping_exchanges_sleep_by_their_bytes(tmp_path: Path) -> None:
    code = (
        "import time; from benchmarks.slow_wire import slow_down; slow_down(8.0, 0.1)\n"
        "from trainer.sync import Wire; from trainer.runtime.spans import Spans\n"
        "slept = []; time.sleep = slept.append\n"
        "wire = Wire(0, 2, Spans()); wire.note_sum(1_000_000); print(slept, wire.sent)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.split("\n")[0] == "[1.1] 1000000.0", "1 MB at 8 Mbit/s, and 0.1 s"


@pytest.mark.skipif(why_not() is not None, reason=f"no network namespaces: {why_not()}")
def test_a_link_is_as_slow_as_stated_and_leaves_nothing() -> None:
    server = (
        "import socket, time; s = socket.create_server(('', 5000)); print('up', flush=True); c, _ = s.accept()\n"
        "began, n = time.time(), 0\nwhile d := c.recv(65536): n += len(d)\nprint(8e-6 * n / (time.time() - began))"
    )
    client = "import socket; socket.create_connection(('{}', 5000)).sendall(bytes(1_500_000))"
    with Network(2, 20.0) as network:
        place = network.place
        with subprocess.Popen([*place.prefix(0), sys.executable, "-c", server], stdout=subprocess.PIPE) as listens:
            assert listens.stdout is not None
            listens.stdout.readline()
            sends = [*place.prefix(1), sys.executable, "-c", client.format(place.address)]
            subprocess.run(sends, timeout=60, check=True)
            megabits = float(listens.stdout.readline())
    assert 10 < megabits < 21
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"lockstep-{os.getpid()}-" not in left


def test_slow_runs_are_told_to_be_slow(tmp_path: Path) -> None:
    flags = slow.arguments(slow.SCENARIOS["slow rank"], "gossip", 3, tmp_path, tmp_path)
    env = json.loads(flags[flags.index("--env.kwargs") + 1])
    assert (env["slow_rank"], env["factor"], env["pace"]) == (1, 5.0, slow.PACE)
    assert flags[flags.index("--sync.kind") + 1] == "gossip"
    assert slow.SCENARIOS["slow network"].megabits is not None


@pytest.mark.timeout(240)
def test_the_short_form_measures_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "DEADLINE", 100.0)
    assert scaling.main(["--short", "--out", str(tmp_path)]) == 0
    one, two = map(json.loads, (tmp_path / "scaling.jsonl").read_text().splitlines())
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert one["megabytes_per_update"] == 0
    size = 4 * (50 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3)
    assert two["megabytes_per_update"] == pytest.approx(size / 1e6, rel=0.15), "and the target's broadcasts"
    assert sum(two["shares"].values()) == pytest.approx(1)
    assert two["shares"]["sync"] > 0
    assert one["return"][0] is not None
    assert len(one["curves"][0]) > 5
    assert {"cpu", "cores", "versions", "commit", "command"} <= two.keys()


@pytest.mark.timeout(240)
def test_inside_an_allocation_every_rank_takes_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.scaling", "--inside", "--work", "toy", "--env-steps", "1600", "--repeats", "1"]
    command += ["--modes", "strong", "--strategies", "flat", "ddp", "--ranks", "2", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in (tmp_path / "scaling.jsonl").read_text().splitlines()]
    assert [(one["strategy"], one["ranks"]) for one in told] == [("flat", 2), ("ddp", 2)]


def test_bytes_of_an_update_are_the_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "LIMIT", float("inf"))
    asked = ["flat", "ddp", "zero1", "int8", "topk", "local_sgd", "gossip", "server-async"]
    command = ["--net", "mlp", "--repeats", "1", "--calls", "2", "--out", str(tmp_path), "--strategies", *asked]
    assert comm.main(command) == 0, "every count is its formula"
    told = json.loads((tmp_path / "comm.jsonl").read_text())
    for name, one in told["strategies"].items():
        assert one["counted"] == one["formula"], name
        if told["own_loopback"]:
            assert one["formula"] < one["loopback"] < 1.2 * one["formula"] + 6_000, name
    assert told["strategies"].keys() == set(asked)
