"""`lockstep evaluate`, `export` and `presets` on a run that was trained for a second."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import checkpoint
from trainer.__main__ import main
from trainer.build import build_net, inspect_env
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.cli import parse_train
from trainer.commands.export import describe
from trainer.commands.presets import describe as describe_preset
from trainer.evaluate import interquartile_mean
from trainer.presets import PRESETS

DEADLINE = 90  # s; a second when nothing else runs
TINY = ["--total_env_steps", "2000", "--checkpoint.every", "1000", "--eval.episodes", "0", "--shards", "2"]
QUIET = ["--log.tensorboard", "False", "--log.plot", "False", "--runtime.device", "cpu"]


def start(*arguments: str, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    """Run lockstep in a process of its own, under torchrun if ranks are given."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    settings = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.run(
        [sys.executable, *torchrun, "-m", "trainer", *arguments],
        env=os.environ | settings, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = start("train", "debug", "--log.dir", str(folder), "--log.name", "tiny", *TINY, *QUIET)
    assert done.returncode == 0, done.stderr
    return folder / "tiny"


def test_no_evaluation_is_none_on_the_way_either(tmp_path: Path) -> None:
    more = ("--eval.every", "200", "--eval.episodes", "0", "--total_env_steps", "1600", "--log.video", "False")
    told = start("train", "debug", *more, "--log.dir", str(tmp_path), "--log.name", "run")
    assert told.returncode == 0, told.stderr
    assert "Warning" not in told.stderr
    assert "eval/" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def evaluate(run: Path, out: Path, *more: str, ranks: int = 0) -> tuple[dict[str, Any], str]:
    done = start("evaluate", str(run), "--json", str(out), "--device", "cpu", *more, ranks=ranks)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope="module")
def alone(run: Path) -> tuple[dict[str, Any], str]:
    return evaluate(run, run / "alone.json", "--episodes", "21", "--epsilon", "0.3", "--video")


def test_evaluate_plays_what_was_asked_and_describes_it(alone: tuple[dict[str, Any], str]) -> None:
    facts, printed = alone
    returns = facts["returns"]
    assert facts["episodes"] == len(returns) == len(facts["lengths"]) == 21
    assert set(returns) == {-1.0, 1.0}
    assert set(facts["lengths"]) == {9}
    assert (facts["env"], facts["env_steps"], facts["checkpoint"]) == ("toy/Catch", 2000, 250)
    assert (facts["min"], facts["max"]) == (-1.0, 1.0)
    assert facts["mean"] == pytest.approx(np.mean(returns))
    assert facts["iqm"] == pytest.approx(interquartile_mean(returns))
    assert "human_normalized_mean" not in facts
    for shown in ("21 episodes", f"{facts['mean']:.2f}", f"{facts['ci_low']:.2f} to {facts['ci_high']:.2f}", "9.0"):
        assert shown in printed


def test_the_video_shows_one_episode(alone: tuple[dict[str, Any], str], run: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    assert f"video: {run / 'agent.gif'}" in alone[1]
    picture = image.open(run / "agent.gif")
    assert picture.n_frames == 9
    first = np.asarray(picture.convert("RGB"))[32::64, 32::64, 0] > 128
    assert first.shape == (10, 5)
    assert first[0].sum() == 1  # the ball
    assert first[-1].tolist() == [False, False, True, False, False]  # the paddle
    assert first.sum() == 2


def test_two_ranks_play_the_same_episodes(alone: tuple[dict[str, Any], str], run: Path) -> None:
    facts, printed = evaluate(run, run / "two.json", "--episodes", "21", "--epsilon", "0.3", ranks=2)
    assert facts == alone[0]
    assert printed.count("21 episodes") == 2  # heading and table of rank 0 alone


def test_another_seed_plays_other_episodes(alone: tuple[dict[str, Any], str], run: Path) -> None:
    facts, _ = evaluate(run, run / "other.json", "--episodes", "21", "--epsilon", "0.3", "--seed", "1")
    assert facts["returns"] != alone[0]["returns"]


def test_the_newest_good_checkpoint_is_taken(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert find_checkpoint(copy, None).step == 250
    assert find_checkpoint(copy, 125).step == 125
    weights = copy / "checkpoints" / "step-000000000250" / "replicated.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert find_checkpoint(copy, None).step == 125
    assert "checkpoint skipped" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sha256"):
        find_checkpoint(copy, 250)


def test_the_weights_are_those_of_the_checkpoint(run: Path) -> None:
    config = read_run(run)
    spec, device = inspect_env(config), torch.device("cpu")
    fresh = build_net(config, spec, device).state_dict()
    first, last = (load_net(config, spec, find_checkpoint(run, step), device).state_dict() for step in (125, 250))
    assert not any(torch.equal(first[name], last[name]) for name in first)
    assert not any(torch.equal(first[name], fresh[name]) for name in first)
    stored = checkpoint.load(find_checkpoint(run, 125), ()).replicated
    assert all(torch.equal(first[name], stored["net"][name]) for name in first)
    assert not any(torch.equal(first[name], stored["target_net"][name]) for name in first)


@pytest.mark.parametrize("kind", ["safetensors", "torchscript"])
def test_export_writes_the_net_of_the_run(kind: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", kind]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "obs float32 [B, 50] -> q [B, 3]" in out
    config = read_run(run)
    spec = inspect_env(config)
    net = load_net(config, spec, find_checkpoint(run, None), torch.device("cpu"))
    if kind == "safetensors":
        from safetensors import safe_open

        with safe_open(run / "agent.safetensors", framework="pt") as file:
            assert file.metadata() == describe(config, spec, 250)
            assert sorted(file.keys()) == sorted(net.state_dict())
            for name, value in net.state_dict().items():
                assert torch.equal(file.get_tensor(name), value)
    else:
        obs = torch.rand(5, 50)
        torch.testing.assert_close(torch.jit.load(run / "agent.pt")(obs), net(obs).q)


def test_export_says_nothing_but_what_it_wrote(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    done = start("export", str(run), "--format", "onnx", "--out", str(tmp_path / "net.onnx"), "--checkpoint", "125")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3
    assert str(tmp_path / "net.onnx") in done.stdout


def test_the_facts_in_a_file_rebuild_the_network(run: Path) -> None:
    config = read_run(run)
    about = describe(config, inspect_env(config), 250)
    assert json.loads(about["obs_shape"]) == [50]
    assert json.loads(about["hidden"]) == [64, 64]
    assert json.loads(about["dueling"]) is False
    assert {k: about[k] for k in ("env", "obs_dtype", "num_actions", "torso", "env_steps")} == {
        "env": "toy/Catch", "obs_dtype": "float32", "num_actions": "3", "torso": "mlp", "env_steps": "2000",
    }  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_trains_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", name]) == 0
    (tmp_path / "x.json").write_text(capsys.readouterr().out)
    assert parse_train([str(tmp_path / "x.json")]).config == PRESETS[name]()


def test_every_preset_is_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    for name, make in PRESETS.items():
        assert f" {name} " in listed
        assert make().env.id in describe_preset(name, make)
        assert len(describe_preset(name, make)) > len(make().env.id)


def test_presets_needs_no_torch() -> None:
    program = "import sys; from trainer.__main__ import main; main(['presets']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("evaluate", "RUN"),
        ("evaluate nowhere", "run nowhere: no config.json found there"),
        ("evaluate EMPTY", "it holds no checkpoint yet"),
        ("evaluate RUN RUN", "Unrecognized"),
        ("evaluate RUN --episodes 0", "--episodes 0: out of range; use 1 or more"),
        ("evaluate RUN --episodes x", "--episodes: 'x' is not INT"),
        ("evaluate RUN --num_envs -1", "--num_envs -1: out of range"),
        ("evaluate RUN --epsilon 1.5", "--epsilon 1.5: out of range; choose a value in [0, 1]"),
        ("evaluate RUN --epsilon nan", "--epsilon nan: out of range"),
        ("evaluate RUN --seed 65536", "--seed 65536: out of range"),
        ("evaluate RUN --checkpoint 7", "--checkpoint 7: run RUN has no checkpoint of that step; it has 125, 250"),
        ("evaluate RUN --epsiodes 3", "--epsiodes: no such field; did you mean --episodes"),
        ("evaluate RUN --json nowhere/x.json", "--json nowhere/x.json: there is no folder nowhere"),
        ("evaluate RUN --video=x.png", "--video x.png: not a .gif"),
        ("export RUN", "--format"),
        ("export RUN --format pickle", "invalid choice 'pickle'"),
        ("export nowhere --format onnx", "run nowhere: no config.json found there"),
        ("export RUN --format safetensors --out nowhere/x", "--out nowhere/x: not a file in a folder that exists"),
        ("export RUN --formt onnx", "--formt: no such field; did you mean --format?"),
        ("demos RUN", "--episodes"),
        ("demos nowhere --episodes 3", "run nowhere: no config.json found there"),
        ("demos EMPTY --episodes 3", "it holds no checkpoint yet"),
        ("demos RUN --episodes 0", "--episodes 0: out of range"),
        ("demos RUN --episodes 3 --epsilon 2", "--epsilon 2.0: out of range; choose a value in [0, 1]"),
        ("demos RUN --episodes 3 --out nowhere/x", "--out nowhere/x: not a file in a folder that exists"),
        ("demos RUN --episode 3", "--episode: no such field; did you mean --episodes?"),
        ("presets cartpol", "preset cartpol: unknown; did you mean cartpole"),
        ("presets --all", "--all: no such field"),
        ("launch locla", "launch locla: unknown; did you mean local?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: str, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(run / "config.json", empty)

    def fill(text: str) -> str:
        return text.replace("RUN", str(run)).replace("EMPTY", str(empty))

    assert main([fill(word) for word in arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lockstep: ")
    assert err.count("\n") == 1
    assert (said if said == "RUN" else fill(said)) in err


def test_a_mistake_in_a_process_is_no_traceback(tmp_path: Path) -> None:
    done = start("evaluate", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
