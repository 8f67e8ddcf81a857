"""Bad input is answered with status 2 and one line that names field, value and remedy, and nothing is written."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import EXIT_BAD_INPUT, main
from trainer.commands import train as train_command
from trainer.presets import PRESETS


@pytest.fixture(autouse=True)
def accepted_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted here must not train, nor start processes."""

    def accept(*_: Any, **__: Any) -> None:
        pytest.fail("the input was accepted")

    monkeypatch.setattr(train_command, "process_group", accept)
    monkeypatch.setattr(train_command, "spawn", accept)


@pytest.fixture
def log_dir(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for runs, which is still empty after the test."""
    folder = tmp_path / "runs"
    folder.mkdir()
    yield folder
    assert not list(folder.rglob("*"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == EXIT_BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("lockstep: ")
    assert "Traceback" not in err
    return err.removeprefix("lockstep: ").rstrip("\n")


# what follows `train` -> words that the line must hold: the field, the value, the remedy
CASES: dict[str, list[str]] = {
    # names
    "cartpol": ["preset cartpol", "did you mean cartpole"],
    "xyzzy": ["preset xyzzy", "use one of debug, cartpole"],
    "debug --optim.lrr 1": ["--optim.lrr", "did you mean --optim.lr"],
    "debug --lr 0.1": ["--lr", "did you mean --optim.lr"],
    "debug --gamma=0.9": ["--gamma", "did you mean --replay.gamma"],
    "debug --qqqq 1": ["--qqqq", "see --help"],
    "debug --preset cartpole": ["--preset", "no such field"],
    "--env.num_envs 8": ["no preset given", "debug, cartpole"],
    # types
    "debug --optim.lr fast": ["--optim.lr", "fast"],
    "debug --env.num_envs 1.5": ["--env.num_envs", "1.5"],
    "debug --loss.kind hubber": ["--loss.kind", "hubber", "huber"],
    "debug --sync.kind tree": ["--sync.kind", "tree", "flat"],
    "debug --loss.double maybe": ["--loss.double", "maybe"],
    "debug --optim.lr": ["--optim.lr"],
    "debug extra": ["extra"],
    "debug --optim.betas 0.9": ["--optim.betas"],
    # ranges
    "debug --seed -1": ["--seed -1", "out of range", "[0, "],
    "debug --total_env_steps 0": ["--total_env_steps 0", "[1, "],
    "debug --env.num_envs 0": ["--env.num_envs 0"],
    "debug --env.num_envs -8": ["--env.num_envs -8"],
    "debug --env.sticky 1.5": ["--env.sticky 1.5", "[0, 1]"],
    "debug --optim.lr 0": ["--optim.lr 0", "(0, inf)"],
    "debug --optim.lr -1e-3": ["--optim.lr -0.001"],
    "debug --optim.lr nan": ["--optim.lr nan", "not a finite number"],
    "debug --optim.lr inf": ["--optim.lr inf", "not a finite number"],
    "debug --optim.lr_end -1": ["--optim.lr_end -1"],
    "debug --optim.eps -1": ["--optim.eps -1"],
    "debug --optim.eps nan": ["--optim.eps nan"],
    "debug --optim.betas 1.0 0.9": ["--optim.betas", "1.0", "use e.g. 0.9 0.999"],
    "debug --optim.betas 0.9 nan": ["--optim.betas", "nan"],
    "debug --optim.max_grad_norm 0": ["--optim.max_grad_norm 0"],
    "debug --optim.max_grad_norm nan": ["--optim.max_grad_norm nan"],
    "debug --replay.gamma 1.01": ["--replay.gamma 1.01", "[0, 1]"],
    "debug --replay.gamma nan": ["--replay.gamma nan"],
    "debug --replay.n_step 0": ["--replay.n_step 0"],
    "debug --replay.update_every 0": ["--replay.update_every 0"],
    "debug --replay.update_every inf": ["--replay.update_every inf"],
    "debug --replay.batch_size 0": ["--replay.batch_size 0"],
    "debug --target.every 0": ["--target.every 0"],
    "debug --target.tau 0": ["--target.tau 0"],
    "debug --target.tau 1.5": ["--target.tau 1.5"],
    "debug --policy.epsilon_end -0.1": ["--policy.epsilon_end -0.1"],
    "debug --eval.epsilon 2": ["--eval.epsilon 2"],
    "debug --net.hidden 0": ["--net.hidden", "give widths >= 1"],
    "debug --checkpoint.keep 0": ["--checkpoint.keep 0"],
    "debug --runtime.timeout 0": ["--runtime.timeout 0"],
    "debug --log.every -5": ["--log.every -5"],
    # shares
    "debug --ranks 0": ["--ranks 0", "positive"],
    "debug --ranks two": ["--ranks two", "--ranks 2"],
    "debug --shards 0": ["--shards 0"],
    "debug --shards -2": ["--shards -2"],
    "debug --shards 3 --ranks 2": ["--shards 3", "2 ranks", "divides 3"],
    "debug --shards 2 --ranks 4": ["--shards 2", "4 ranks", "divides 2, or, for a new run, --shards 4"],
    "debug --env.num_envs 9 --ranks 2": ["--env.num_envs 9", "2 shards", "use a multiple"],
    "debug --replay.batch_size 66 --shards 4": ["--replay.batch_size 66", "4 shards"],
    # the replay
    "debug --replay.capacity 32": ["--replay.capacity 32", "a batch (64)", "use 64 or more"],
    "debug --replay.capacity 300 --replay.n_step 40": ["--replay.capacity 300", "328"],
    "debug --replay.learning_starts 7": ["--replay.learning_starts 7", "use 8 or more"],
    "debug --replay.learning_starts 20 --replay.n_step 3": ["--replay.learning_starts 20", "use 24 or more"],
    "debug --replay.learning_starts 10001": ["--replay.learning_starts 10001", "raise --replay.capacity"],
    "debug --total_env_steps 400": ["--total_env_steps 400", "500"],
    "debug --replay.capacity 1000000000000": ["--replay.capacity 1000000000000", "TB", "are free", "or less"],
    # environments
    "debug --env.id CartPole-v9": ["CartPole-v9", "did you mean CartPole-v1"],
    "debug --env.id toy/Cach": ["toy/Cach", "did you mean toy/Catch"],
    "debug --env.id MinAtar/Brekout-v1": ["MinAtar/Brekout-v1", "MinAtar/Breakout-v1"],
    "debug --env.id no_such_package:Foo-v0": ["no_such_package", "install"],
    "debug --env.id Pendulum-v1": ["Pendulum-v1", "Box", "Discrete"],
    "debug --env.id Acrobot-v1 --env.backend native": ["Acrobot-v1", "sync"],
    "debug --env.id CartPole-v1 --env.backend toy": ["CartPole-v1", "toy", "use auto"],
    "cartpole --env.autoreset same_step": ["same_step", "next_step"],
    "debug --env.kwargs {": ["--env.kwargs {", "not a JSON object"],
    "debug --env.kwargs [1]": ["--env.kwargs [1]", "not a JSON object"],
    'cartpole --env.kwargs {"wheels":3}': ["wheels"],
    'debug --env.kwargs {"max_episode_steps":0}': ["max_episode_steps 0"],
    "debug --net.torso nature": ["--net.torso nature", "36x36", "use --net.torso mlp"],
    'debug --env.kwargs {"image":true} --net.torso nature': ["36x36", "use --net.torso minatar or impala or mlp"],
    "debug --optim.rms_decay 1": ["--optim.rms_decay 1.0", "[0, 1)"],
    "debug --sync.outer_momentum 1": ["--sync.outer_momentum 1.0", "[0, 1)"],
    "debug --pixels.shift 2": ["--pixels.shift 2: needs images", "(50,)", "use --pixels.shift 0"],
    'debug --env.kwargs {"image":true} --net.torso mlp --pixels.shift 7': ["nothing of an image", "use 6 or less"],
    "debug --pixels.spr 2": ["--pixels.spr 2.0: needs images and convolutions", "(50,)", "use --pixels.spr 0"],
    'debug --env.kwargs {"image":1}': ["image 1: must be true or false"],
    "debug --runtime.device cuda": ["--runtime.device cuda", "use --runtime.device cpu"],
}


@pytest.mark.parametrize("line", CASES)
def test_bad_input(
    line: str, log_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    arguments = line.split()
    where = ["--log.dir", str(log_dir)]
    at = 1 if arguments[0] in PRESETS else 0
    said = refusal(capsys, "train", *arguments[:at], *(where if at else []), *arguments[at:])
    for words in CASES[line]:
        assert words in said, said


def test_presets_need_no_word_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean debug" in refusal(capsys, "debgu")


# --- missing extras ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "module", "extra"),
    [("atari", "ale_py", "atari"), ("minatar", "minatar", "minatar"), ("lunarlander", "Box2D", "box2d")],
)
def test_a_missing_extra_is_named(
    preset: str,
    module: str,
    extra: str,
    log_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Absent:
        """Finds nothing under the name of the missing package."""

        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in list(sys.modules):
        if name.partition(".")[0] == module or name.startswith("gymnasium.envs.box2d"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    said = refusal(capsys, "train", preset, "--log.dir", str(log_dir))
    assert PRESETS[preset]().env.id in said
    assert f"pip install 'lockstep[{extra}]'" in said


# --- folders and files ------------------------------------------------------------------------------------------------


def test_an_existing_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    said = refusal(capsys, "train", "debug", "--log.dir", str(tmp_path), "--log.name", "run")
    assert f"--log.name run: {tmp_path / 'run'} already holds a run" in said
    assert f"--resume {tmp_path / 'run'}" in said
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize("ranks", [(), ("--ranks", "2")])
def test_a_log_dir_that_cannot_be_written(
    ranks: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    said = refusal(capsys, "train", "debug", "--log.dir", str(tmp_path / "file" / "runs"), *ranks)
    assert said.startswith(f"--log.dir {tmp_path / 'file' / 'runs'}: cannot write to {tmp_path / 'file'}")


def test_a_log_dir_without_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    said = refusal(capsys, "train", "debug", "--log.dir", str(tmp_path / "runs"))
    assert said == f"--log.dir {tmp_path / 'runs'}: cannot write to {tmp_path}; choose another folder"
    assert not (tmp_path / "runs").exists()


def config_text(**changes: Any) -> str:
    whole = PRESETS["debug"]().to_dict()
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        (whole[section] if section else whole)[leaf] = value
    return json.dumps(whole)


MALFORMED: dict[str, tuple[str, str]] = {
    "nothing": ("", "Expecting value"),
    "half": (config_text()[:100], "cannot be read"),
    "a list": ("[1, 2]", "cannot be read"),
    "a number": ("3", "cannot be read"),
    "unknown field": (config_text(optim__warmup=3), "warmup"),
    "unknown section": (config_text(plan={}), "plan"),
    "section is a number": (config_text(optim=3), "optim"),
    "text for a number": (config_text(optim__lr="fast"), "optim.lr"),
    "null for a number": (config_text(env__num_envs=None), "env.num_envs"),
    "fraction for a count": (config_text(env__num_envs=7.5), "env.num_envs"),
    "unknown choice": (config_text(loss__kind="l1"), "loss.kind"),
    "text in a tuple": (config_text(net__hidden=["wide"]), "net.hidden"),
    "bad number": (config_text(replay__gamma=2.0), "--replay.gamma 2.0: out of range"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("how", ["preset", "resume"])
def test_a_malformed_config_file(case: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = MALFORMED[case]
    path = tmp_path / "config.json"
    path.write_text(text)
    arguments = [str(path), "--log.dir", str(tmp_path)] if how == "preset" else ["--resume", str(tmp_path)]
    assert words in refusal(capsys, "train", *arguments)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no config.json found" in refusal(capsys, "train", str(tmp_path / "other.json"))
    said = refusal(capsys, "train", "--resume", str(tmp_path))
    assert said.startswith(f"--resume {tmp_path}: no config.json found there")


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--seed 3", "--seed 3: the run to resume has 1"),
        ("--optim.lr 0.5", "--optim.lr 0.5: the run to resume has 0.001"),
        ("--env.num_envs 4", "--env.num_envs 4: the run to resume has 8"),
        ("--runtime.dtype float64", "--runtime.dtype float64: the run to resume has float32"),
        ("--net.hidden 8 8", "--net.hidden (8, 8): the run to resume has (64, 64)"),
    ],
)
def test_a_resumed_run_may_not_become_another_one(
    change: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(config_text(shards=1))
    said = refusal(capsys, "train", "--resume", str(tmp_path), *change.split())
    assert said.startswith(words)
    assert "only these may change: total_env_steps, log, checkpoint, eval, sync" in said


def test_resume_refuses_another_preset_and_ranks_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(config_text(shards=4))
    assert "omit the preset" in refusal(capsys, "train", "cartpole", "--resume", str(tmp_path))
    said = refusal(capsys, "train", "--resume", str(tmp_path), "--ranks", "3")
    assert "--shards 4: cannot be divided among 3 ranks" in said
    assert "it holds no checkpoint" in refusal(capsys, "train", "--resume", str(tmp_path))


def test_signals_are_still_pythons(log_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused command has installed nothing."""
    refusal(capsys, "train", "debug", "--seed", "-1", "--log.dir", str(log_dir))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
