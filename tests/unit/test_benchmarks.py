"""The smallest setting of every benchmark runs and writes rows that say where they come from. No timing is judged."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from benchmarks import comm, layers, priorities, replay, rows, step
from benchmarks.harness import cartpole, interleaved, table
from benchmarks.peers import __main__ as peers
from benchmarks.peers import pqn, ranks, venvs
from trainer.cli import parse_train
from trainer.replay.ring import Ring

PROVENANCE = {"cpu", "cores", "versions", "commit", "command", "time"}


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows go during a test."""
    monkeypatch.setattr(rows, "HERE", tmp_path)
    return tmp_path / "results"


def written(results: Path, name: str) -> list[dict[str, Any]]:
    lines = (results / f"{name}.jsonl").read_text().splitlines()
    found: list[dict[str, Any]] = [json.loads(line, parse_constant=_refuse) for line in lines]
    for row in found:
        assert row.keys() >= PROVENANCE
        assert row["versions"].keys() >= {"python", "torch", "gymnasium", "numpy"}
        assert not any(isinstance(value, str) and value.startswith("/") for value in row.values())
    return found


def _refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture
def without_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvs, "HOME", tmp_path / "peers")


def test_step(results: Path) -> None:
    step.main(["--work", "toy", "--repeats", "2", "--steps", "10"])
    (row,) = written(results, "step")
    assert row["ms"].keys() == {"whole", "env", "act", "learn", "replay", "sync"}
    assert all(value > 0 for name, value in row["ms"].items() if name != "sync")
    assert sum(row["share_in_loop"].values()) == pytest.approx(1.0)
    assert row["updates_per_step"] == 1
    assert row["pass"] is None


def test_layers(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(layers, "SIDE", 64)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    layers.main(["--batch", "1", "--repeats", "1", "--calls", "1"])
    found = written(results, "layers")
    assert len(found) == 2 * 7, "three convolutions in two layouts, and one layer of vectors, in two precisions each"
    shares = [row["floor_ms"] * row["gflops"] * 1e6 for row in found]
    assert shares[0] == pytest.approx(2 * 20 * 20 * 32 * (8 * 8 * 4)), "operations of the first layer, from its paper"
    assert shares[-1] == pytest.approx(2 * 3136 * 512)
    assert "channels last, bfloat16" in capsys.readouterr().out


def test_step_leaves_torch_as_it_was(results: Path) -> None:
    threads = torch.get_num_threads()
    step.main(["--work", "toy", "--repeats", "1", "--steps", "2"])
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


def test_comm(results: Path) -> None:
    comm.main(["--net", "mlp", "--repeats", "1", "--calls", "3"])
    (row,) = written(results, "comm")
    assert row["bytes"] == 4 * (4 * 120 + 120 + 120 * 84 + 84 + 84 * 2 + 2)
    assert row["us"].keys() == {"bare", "exchange", "alone", "flat", "ddp"}
    assert row["faster"] in ("flat", "ddp")


def test_comm_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "DEADLINE", 0.0)
    with pytest.raises(TimeoutError, match="took more than"):
        comm.measure("mlp", 2, 1, 1)


@pytest.mark.usefixtures("without_peers")
def test_replay(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay.main(["--small", "--eager", "--repeats", "1", "--calls", "8"])
    found = written(results, "replay")
    assert [row["name"] for row in found] == [case.name for case in (*replay.CASES, priorities.CASE)]
    said = capsys.readouterr().out
    assert "sb3 is absent" in said
    assert "replay is absent" in said
    assert found[-1]["us"].keys() == {"add", "cycle", "tree"}


def test_replay_sets_priorities_beside_each_peer(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Silent:
        def __init__(self, peer: venvs.Peer) -> None: ...
        def __enter__(self) -> Silent:
            return self

        def __exit__(self, *_: object) -> None: ...

        def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
            asked.append(arguments.get("who", what))
            return {"add": 1.0, "cycle": 1e-9 if arguments.get("who") == "cpprb" else 1e9}

    monkeypatch.setattr(replay, "Worker", Silent)
    monkeypatch.setattr(venvs.Peer, "is_installed", lambda self: True)
    told = replay.main(["--small", "--eager", "--work", "prioritized", "--repeats", "2", "--calls", "2"])
    assert told == 1, "a limit is missed"
    assert asked == ["cpprb", "torchrl"] * 3 + ["versions"] * 2
    assert {row["who"]: row.get("pass") for row in written(results, "replay")} == {
        "lockstep": None,
        "cpprb": False,
        "torchrl": True,
    }


def test_a_stacked_transition_takes_one_frame() -> None:
    case = next(case for case in replay.CASES if case.stack == 4)
    size = replay.bytes_of(replay.Ours(case, 1, compiled=False).memory) / case.capacity
    assert size == pytest.approx(Ring.row_bytes((84, 84), torch.uint8), rel=0.02)
    assert size < 7_200


class Racer:
    """Answers as a peer does, at the speed listed for its name."""

    SPEED: ClassVar = {"lockstep": 700.0, "lockstep-tensors": 900.0, "sb3": 100.0, "cleanrl": 50.0, "jax": 9_000.0}
    asked: ClassVar[list[tuple[str, str, int]]] = []

    def __init__(self, peer: venvs.Peer) -> None:
        self.name = peer.name

    def __enter__(self) -> Racer:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((self.name, what, arguments.get("envs", 0)))
        if what == "solve":
            return {"seconds": 3.0, "env_steps": 1_000, "solved": arguments["seed"] == 1}
        steps = self.SPEED[self.name] * (2 if arguments.get("envs") == 8 else 1)
        return {} if what == "versions" else {"seconds": 1.0, "env_steps": steps, "updates": 5, "peak_mb": 1.0}


def test_peers_race_in_turn(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "Worker", Racer)
    monkeypatch.setattr(venvs.Peer, "install", lambda self: None)
    monkeypatch.setattr(Racer, "asked", [])
    who = ["--peers", "sb3", "cleanrl", "jax", "--envs", "1", "8"]
    assert peers.main([*who, "--repeats", "2", "--solve", "2"]) == 0
    found = written(results, "peers")
    ours = [(who, envs) for who in ("lockstep", "lockstep-tensors") for envs in (1, 8)]
    cases = [*ours, ("sb3", 1), ("sb3", 8), ("cleanrl", 1), ("jax", 1), ("jax", 8)]
    assert [(row["who"], row["envs"]) for row in found] == cases, "CleanRL has one environment"
    trained = [(name, envs) for name, what, envs in Racer.asked if what == "train"]
    assert trained == cases * 3, "a warm-up and two repeats, each in turn"
    # 200 a second is SB3's best, with 8 environments; JAX is no PyTorch peer
    assert [row.get("to_fastest_peer") for row in found[:5]] == [3.5, 7.0, 4.5, 9.0, None]
    assert found[0]["pass"], "at least 2.5 x with one environment"
    assert [len(row.get("solved", ())) for row in found] == [0, 2, 0, 2, 0, 2, 2, 0, 2], "with each one's best number"
    said = capsys.readouterr().out
    assert "its dqn.py has one environment" in said
    assert "3 >3" in said


def test_the_race_on_two_cores_is_of_the_same_run(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, int, str]] = []

    class Learners(Racer):
        def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
            name, _, learners = arguments["work"].partition(", ")
            asked.append((self.name, int(learners), name))
            return {"seconds": 2.0, "env_steps": 200 + 20 * int(learners)}

    @contextmanager
    def started(flags: Sequence[str], count: int, said: Path) -> Iterator[Any]:
        config = parse_train(list(flags)[1:]).config
        assert (config.env.num_envs, config.replay.batch_size) == (64, 128), "of all ranks together"
        asked.append(("lockstep", count, config.preset))
        yield types.SimpleNamespace(wait=lambda deadline: None)

    monkeypatch.setattr(ranks, "Worker", Learners)
    monkeypatch.setattr(ranks, "started", started)
    speed = types.SimpleNamespace(env_steps_per_s=660.0)
    monkeypatch.setattr(ranks, "read", lambda run: types.SimpleNamespace(speed=speed))
    monkeypatch.setattr(venvs.Peer, "install", lambda self: None)
    assert ranks.main(["--repeats", "2"]) == 0
    turn = [("lockstep", n, "cartpole-cleanrl") for n in (1, 2)] + [("rllib", n, "cartpole") for n in (1, 1, 2, 2)]
    assert asked == turn * 2, "RLlib warms up before it is measured"
    found = written(results, "peers_ranks")
    assert [(row["who"], row["ranks"]) for row in found] == [(who, n) for who in ("lockstep", "rllib") for n in (1, 2)]
    assert [row["to_rllib"] for row in found] == [pytest.approx([x] * 2) for x in (5.5, 5.5, 110 / 120, 1)]
    assert [row["efficiency"][0] for row in found] == pytest.approx([1, 0.5, 1, 120 / 220])
    assert "not in the race: sb3 (one process)" in capsys.readouterr().out


def test_pqn_beside_its_authors(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Authors(Racer):
        def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
            asked.append((self.name, arguments.get("env_steps", 0)))
            return {"jax": "0"} if what == "versions" else {"seconds": 2.0, "env_steps": 4_000}

    @contextmanager
    def started(flags: Sequence[str], count: int, said: Path) -> Iterator[Any]:
        config = parse_train(list(flags)[1:]).config
        assert config.env.id == "MinAtar/Freeway-v0"
        assert config.runtime.threads * count == 2, "a thread a core"
        asked.append(("lockstep", count))
        yield types.SimpleNamespace(wait=lambda deadline: None)

    monkeypatch.setattr(pqn, "Worker", Authors)
    monkeypatch.setattr(pqn, "started", started)
    monkeypatch.setattr(pqn, "cores", lambda: 2)
    monkeypatch.setattr(pqn, "read", lambda run: types.SimpleNamespace(speed=next(speeds)))
    monkeypatch.setattr(venvs.Peer, "install", lambda self: None)
    speeds = iter([types.SimpleNamespace(env_steps_per_s=rate) for rate in (1_000.0, 3_000.0, 1_000.0, 1_500.0)])
    with pytest.raises(SystemExit, match="2"):
        pqn.main(["--source", str(tmp_path)])
    (tmp_path / "purejaxql").mkdir()
    (tmp_path / "purejaxql" / "pqn_minatar.py").touch()
    arguments = ["--source", str(tmp_path), "--game", "Freeway", "--repeats", "1", "--peer-env-steps", "4096"]
    assert pqn.main(arguments) == 0
    assert asked == [("lockstep", 1), ("lockstep", 2), ("purejaxql", 4_096), ("purejaxql", 0)]
    assert [row["to_purejaxql"] for row in written(results, "peers_pqn")] == [0.5, 1.5, 1.0]
    assert pqn.main(arguments) == 1, "slower with threads and with ranks"


def test_a_race_that_is_lost_says_so(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "Worker", Racer)
    monkeypatch.setattr(venvs.Peer, "install", lambda self: None)
    monkeypatch.setattr(Racer, "SPEED", {"lockstep": 200.0, "lockstep-tensors": 900.0, "sb3": 100.0})
    assert peers.main(["--peers", "sb3", "--envs", "1", "--repeats", "1"]) == 1
    assert written(results, "peers")[0]["pass"] is False


@pytest.mark.parametrize("envs", [1, 8, 32, 64])
@pytest.mark.parametrize("every", [4, 10])
def test_a_cadence_keeps_the_replay_ratio(envs: int, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(venvs.__file__).parent))
    cycle = importlib.import_module("answering").cadence(envs, every)
    assert cycle.updates >= 1
    assert cycle.steps * envs == cycle.updates * every


def test_memory_is_that_of_who_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(venvs.__file__).parent))
    peak_mb = importlib.import_module("answering").peak_mb
    alone = peak_mb()
    program = "x = bytearray(100 << 20); print(len(x), flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        assert alone + 100 < peak_mb() < alone + 200
        child.communicate("\n", timeout=30)
    assert peak_mb() < alone + 50, "the dead do not count, nor what they shared with this process before they were"


def test_epsilon_is_the_mean_of_the_schedule() -> None:
    policy = cartpole().policy
    assert policy.epsilon_start == policy.epsilon_end == pytest.approx(0.5 * 0.525 + 0.5 * 0.05)


def test_interleaved_takes_turns() -> None:
    calls: list[str] = []

    def work(name: str) -> float:
        calls.append(name)
        return math.pi

    told = interleaved({"a": lambda: work("a"), "b": lambda: work("b")}, 2)
    assert calls == ["a", "b", "a", "b"]
    assert told == {"a": [math.pi] * 2, "b": [math.pi] * 2}


def test_table_aligns() -> None:
    assert table(("name", "x"), [("a", 10), ("long name", 1)]).splitlines() == [
        "name        x",
        "a          10",
        "long name   1",
    ]
