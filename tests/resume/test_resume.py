"""2k steps == k steps, saved, killed by SIGKILL, resumed, k steps more: bit for bit, in everything that is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import killing
import pytest
import torch
from launching import QUIET, checkpoints, metrics, run
from safetensors.torch import load_file

LUNAR = ("train", "lunarlander", "--net.hidden", "32", "--eval.episodes", "2", "--eval.num_envs", "2")
SMALL = ("--net.hidden", "24", "--eval.episodes", "4", "--eval.num_envs", "4")
COMMON = ("--log.every", "200", "--total_env_steps", "2400", "--checkpoint.every", "1200")
RUNS: dict[str, tuple[str, ...]] = {
    "toy": ("train", "debug", *COMMON, "--shards", "2", "--eval.episodes", "8"),
    "n-step, next-step, rmsprop": (
        *("train", "debug", *COMMON, "--replay.n_step", "3", "--env.autoreset", "next_step", "--optim.kind", "rmsprop"),
        *("--replay.capacity", "600", "--sync.kind", "ddp", "--target.tau", "0.3", "--eval.episodes", "0"),
    ),
    "CartPole native": ("train", "cartpole", *COMMON, *SMALL, "--eval.every", "800"),
    "Acrobot sync": ("train", "acrobot", *COMMON, *SMALL, "--replay.update_every", "8", "--eval.episodes", "0"),
    "MinAtar": ("train", "minatar", *COMMON, *SMALL, "--replay.learning_starts", "800", "--replay.update_every", "4"),
}
LATER = ("CartPole native", "Acrobot sync")
KILLED_AT_ENV_STEPS = 1_688


def at(folder: Path, name: str) -> list[str]:
    return [*QUIET, "--log.dir", str(folder), "--log.name", name]


def in_one_process(folder: Path, *runs: tuple[int, list[str]], ranks: int = 1, expect: int = 0) -> str:
    arguments = [killing.__file__, json.dumps(runs)]
    return run(arguments, folder, ranks=ranks, deadline=90, expect=expect).output


def stored(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every tensor and every JSON value of a checkpoint, less where the log file ended (its times differ in length)."""
    tensors = {f"{f.stem}{k}": v for f in sorted(checkpoint.glob("*.safetensors")) for k, v in load_file(f).items()}
    values = {f.name: json.loads(f.read_text()) for f in sorted(checkpoint.glob("*.json")) if f.name != "manifest.json"}

    def without_log(value: Any) -> Any:
        return {k: without_log(v) for k, v in value.items() if k != "logger"} if isinstance(value, dict) else value

    return tensors, {name: without_log(value) for name, value in values.items()}


def assert_same_checkpoint(a: Path, b: Path, *, atol: float = 0.0) -> None:
    (tensors, values), (other_tensors, other_values) = stored(a), stored(b)
    assert a.name == b.name
    assert list(tensors) == list(other_tensors)
    for name, tensor in tensors.items():
        if atol and tensor.is_floating_point():
            torch.testing.assert_close(other_tensors[name], tensor, rtol=0, atol=atol, msg=name)
        else:
            assert torch.equal(tensor, other_tensors[name]), name
    if not atol:
        assert values == other_values


def outcome(run_dir: Path) -> dict[str, Any]:
    results = json.loads((run_dir / "results.json").read_text())
    return {k: v for k, v in results.items() if k not in ("seconds", "env_steps_per_second", "ranks")}


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "which", [pytest.param(name, marks=pytest.mark.slow) if name in LATER else name for name in RUNS]
)
def test_killed_and_resumed_equals_uninterrupted(which: str, tmp_path: Path) -> None:
    arguments = list(RUNS[which])
    envs = 4 if which == "MinAtar" else 8
    whole = (0, [*arguments, *at(tmp_path, "whole")])
    killed = (KILLED_AT_ENV_STEPS // envs, [*arguments, *at(tmp_path, "killed")])
    in_one_process(tmp_path, whole, killed, expect=-9)
    one, other = tmp_path / "whole", tmp_path / "killed"
    assert [c.name for c in checkpoints(other)] == [f"step-{1200 // envs:012d}"]
    rows = [row["global_step"] for row in metrics(other)]
    assert max(rows) > 1200, "rows that the resumed run has to write again"
    said = run(["train", "--resume", str(other)], tmp_path, deadline=90).output
    assert "resumed at 1,200 env steps" in said
    assert_same_checkpoint(checkpoints(one)[-1], checkpoints(other)[-1])
    assert metrics(one) == metrics(other)
    assert outcome(one) == outcome(other)
    assert outcome(one)["updates"] > 100


@pytest.mark.timeout(300)
def test_another_number_of_ranks_goes_on_with_the_same_shards(tmp_path: Path) -> None:
    """Four shards: on two ranks until one is killed, then on four, then (from its end, further) on one."""
    arguments = ["train", "debug", *COMMON, "--shards", "4", "--runtime.dtype", "float64", "--eval.episodes", "8"]
    in_one_process(tmp_path, (0, [*arguments, *at(tmp_path, "whole"), "--total_env_steps", "3200"]))
    killed = (KILLED_AT_ENV_STEPS // 8, [*arguments, *at(tmp_path, "moved")])
    in_one_process(tmp_path, killed, ranks=2, expect=-9)
    one, other = tmp_path / "whole", tmp_path / "moved"
    resume = ["train", "--resume", str(other)]
    assert "4 rank(s) on cpu, 4 shard(s)" in run(resume, tmp_path, ranks=4, deadline=90).output
    assert_same_checkpoint(checkpoints(one)[-2], checkpoints(other)[-1], atol=1e-10)
    run([*resume, "--total_env_steps", "3200"], tmp_path, ranks=1, deadline=90)
    assert_same_checkpoint(checkpoints(one)[-1], checkpoints(other)[-1], atol=1e-10)
    assert outcome(one) == outcome(other)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2,400 env steps, with checkpoints at 1,600 and 2,400, and a second one of 3,200."""
    folder = tmp_path_factory.mktemp("finished")
    every = ["train", "debug", *COMMON, "--checkpoint.every", "800", "--eval.episodes", "0"]
    longer = [*every, *at(folder, "longer"), "--total_env_steps", "3200"]
    in_one_process(folder, (0, [*every, *at(folder, "run")]), (0, longer))
    return folder


def test_a_finished_run_goes_on_and_a_damaged_checkpoint_is_passed_over(finished: Path, tmp_path: Path) -> None:
    """In one: the newest of two checkpoints is damaged, so the longer run begins at the older one, with a warning."""
    run_dir, before = finished / "run", stored(checkpoints(finished / "run")[-1])
    damaged = checkpoints(run_dir)[-1] / "shard-00000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    said = run(["train", "--resume", str(run_dir), "--total_env_steps", "3200"], tmp_path, deadline=90).output
    warned = [line for line in said.splitlines() if line.startswith("lockstep: checkpoint skipped: ")]
    assert len(warned) == 1
    assert str(damaged) in warned[0]
    assert "resumed at 1,600 env steps" in said
    after, longer = checkpoints(run_dir), checkpoints(finished / "longer")
    assert [c.name for c in after] == [c.name for c in longer]
    assert_same_checkpoint(longer[-2], after[-2])
    assert_same_checkpoint(longer[-1], after[-1])
    assert before[1] == stored(after[-2])[1], "the damaged one was written again, the same"
    assert metrics(finished / "longer") == metrics(run_dir)


def test_nothing_to_resume_is_told_in_one_line(tmp_path: Path) -> None:
    in_one_process(tmp_path, (100, ["train", "debug", *COMMON, *at(tmp_path, "run")]), expect=-9)
    program = run(["train", "--resume", str(tmp_path / "run")], tmp_path, expect=2)
    assert program.lines == [f"lockstep: --resume {tmp_path / 'run'}: it holds no checkpoint; start a new run"]


def test_only_damaged_checkpoints_are_told_in_one_line(tmp_path: Path) -> None:
    killed = (200, ["train", "debug", *COMMON, "--shards", "2", *at(tmp_path, "run")])
    in_one_process(tmp_path, killed, expect=-9)
    (only,) = checkpoints(tmp_path / "run")
    (only / "replicated.json").write_text("{}")
    program = run(["train", "--resume", str(tmp_path / "run")], tmp_path, expect=2, ranks=2)
    assert "Traceback" not in program.output
    assert "none of 1 checkpoints is good" in program.lines[-1]
    assert [line.partition(": ")[0] for line in program.lines] == ["lockstep"] * 2, program.output


def test_without_replay_the_memory_is_filled_again_first(tmp_path: Path) -> None:
    arguments = ["train", "debug", *COMMON, "--checkpoint.replay", "False", "--eval.episodes", "0"]
    in_one_process(tmp_path, (200, [*arguments, *at(tmp_path, "run")]), expect=-9)
    (only,) = checkpoints(tmp_path / "run")
    assert not [name for name in stored(only)[0] if "ring" in name or "frames" in name]
    said = run(["train", "--resume", str(tmp_path / "run")], tmp_path).output
    assert "holds no replay" in said
    updates = outcome(tmp_path / "run")["updates"]
    refilled = 1200 + 8 * (63 + 1)  # learning_starts, and one step more because it may be an autoreset
    assert updates == (1200 - 500) // 8 + (2400 - refilled) // 8


def test_the_smallest_refill_survives_an_autoreset(tmp_path: Path) -> None:
    """One environment that waits for its NEXT_STEP reset when saved: the first row after a resume is no transition."""
    arguments = [
        *("train", "debug", "--env.autoreset", "next_step", "--env.num_envs", "1", "--replay.learning_starts", "1"),
        *("--replay.update_every", "1", "--replay.batch_size", "2", "--checkpoint.replay", "False"),
        *("--total_env_steps", "40", "--checkpoint.every", "9", "--checkpoint.keep", "1", "--eval.episodes", "0"),
    ]
    in_one_process(tmp_path, (10, [*arguments, *at(tmp_path, "run")]), expect=-9)
    assert checkpoints(tmp_path / "run")[0].name == "step-000000000009", "an episode of Catch takes 9 steps"
    run(["train", "--resume", str(tmp_path / "run")], tmp_path)


def test_environments_that_cannot_be_saved_begin_new_episodes(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    arguments = [*LUNAR, *COMMON, "--replay.learning_starts", "800", "--replay.update_every", "16"]
    in_one_process(tmp_path, (200, [*arguments, *at(tmp_path, "run")]), expect=-9)
    said = run(["train", "--resume", str(tmp_path / "run")], tmp_path).output
    assert "resumed at 1,200 env steps" in said
    assert said.count("LunarLander-v3 cannot save its state: its environments began new episodes") == 1
    assert outcome(tmp_path / "run")["updates"] == (2400 - 800) // 16
