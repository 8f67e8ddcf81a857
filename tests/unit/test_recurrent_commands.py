"""A recurrent run after its training: evaluated, drawn, exported as weights, and refused as a function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_commands import QUIET, TINY, evaluate, start

from trainer.__main__ import main
from trainer.build import inspect_env
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.commands.record import record
from trainer.nets import RecurrentQNetwork

R2D2 = (
    *("--replay.kind", "sequence", "--net.lstm", "8", "--replay.length", "4", "--replay.burn_in", "2"),
    *("--replay.stride", "2", "--replay.batch_size", "8", "--loss.rescale", "True"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = start("train", "debug", "--log.dir", str(folder), "--log.name", "tiny", *TINY, *QUIET, *R2D2)
    assert done.returncode == 0, done.stderr
    assert "the states of their sequences" in done.stdout + done.stderr
    return folder / "tiny"


@pytest.mark.slow  # test_commands does it without a recurrent core
def test_evaluate_is_the_same_on_two_ranks(run: Path) -> None:
    alone, _ = evaluate(run, run / "one.json", "--episodes", "20")
    spread, _ = evaluate(run, run / "two.json", "--episodes", "20", ranks=2)
    assert alone["returns"] == spread["returns"]


def test_record_draws_an_episode(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    assert record(run, tmp_path / "agent.gif").stat().st_size > 500


def test_export_gives_weights_and_refuses_functions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_run(run)
    net = load_net(config, inspect_env(config), find_checkpoint(run, None), torch.device("cpu"))
    assert isinstance(net, RecurrentQNetwork)
    assert main(["export", str(run), "--format", "safetensors"]) == 0
    for kind in ("torchscript", "onnx"):
        assert main(["export", str(run), "--format", kind]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"--format {kind}: a recurrent network (--net.lstm 8)" in line
        assert "use --format safetensors" in line
