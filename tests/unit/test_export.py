"""What is exported computes what the network computes, on observations that the exporter has not seen."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.export import SUFFIXES, ExportError, export, random_batches
from trainer.nets import ActionOutputs, QNetwork, ValueHead, VectorTorso, minatar, nature
from trainer.types import QOut

ABOUT = {"env": "toy/Catch", "hidden": "[16]"}


def head(features: int, actions: int, dueling: bool = False) -> ValueHead:
    return ValueHead(ActionOutputs(features, actions, 1, dueling=dueling))


NETS: dict[str, tuple[Callable[[], QNetwork], tuple[int, ...], torch.dtype]] = {
    "vector": (
        lambda: QNetwork(VectorTorso((5,), (16,)), head(16, 3, dueling=True)),
        (5,),
        torch.float32,
    ),
    "board": (
        lambda: QNetwork(minatar((4, 10, 10), (16,)), head(16, 6)),
        (4, 10, 10),
        torch.bool,
    ),
    "image": (
        lambda: QNetwork(nature((4, 84, 84), (16,)), head(16, 4, dueling=True)),
        (4, 84, 84),
        torch.uint8,
    ),
    "double": (
        lambda: QNetwork(minatar((2, 10, 10), (16,)), head(16, 3)).double(),
        (2, 10, 10),
        torch.bool,
    ),
}


def read(kind: str, path: Path, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what someone without the exporter would compute with the file."""
    if kind == "safetensors":
        from safetensors.torch import load_file

        with torch.no_grad():
            for value in net.parameters():
                value.zero_()
        net.load_state_dict(load_file(path))
        return lambda obs: net(obs).q
    if kind == "torchscript":
        module = torch.jit.load(path)
        return lambda obs: module(obs)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda obs: torch.from_numpy(session.run(["q"], {"obs": obs.numpy()})[0])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", SUFFIXES)
def test_every_format_equals_the_eager_network(kind: str, name: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    make, shape, dtype = NETS[name]
    torch.manual_seed(0)
    net = make()
    path = tmp_path / f"agent{SUFFIXES[kind]}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = export(kind, net, random_batches(shape, dtype), path, ABOUT)
    assert error <= 1e-5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    obs = [4 - batch if dtype is torch.float32 else batch for batch in random_batches(shape, dtype, sizes=(1, 2, 9))]
    with torch.no_grad():
        expected = [net(batch).q for batch in obs]
        compute = read(kind, path, net)
        for batch, q in zip(obs, expected, strict=True):
            torch.testing.assert_close(compute(batch), q, atol=1e-5, rtol=1e-5, check_dtype=kind != "onnx")


def test_the_facts_are_in_the_file(tmp_path: Path) -> None:
    make, shape, dtype = NETS["vector"]
    batches = random_batches(shape, dtype)
    export("safetensors", make(), batches, tmp_path / "a", ABOUT)
    from safetensors import safe_open

    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == ABOUT
    export("torchscript", make(), batches, tmp_path / "b", ABOUT)
    extra = {"about.json": ""}
    torch.jit.load(tmp_path / "b", _extra_files=extra)
    assert json.loads(extra["about.json"]) == ABOUT
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export("onnx", make(), batches, tmp_path / "c", ABOUT)
    assert onnxruntime.InferenceSession(tmp_path / "c").get_modelmeta().custom_metadata_map == ABOUT


class Moody(nn.Module):
    """A network that no trace can follow: it answers differently every time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.calls = 0

    def forward(self, obs: Tensor) -> QOut:
        self.calls += 1
        return QOut(self.layer(obs) + self.calls)


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs by"):
        export("torchscript", Moody(), random_batches((5,), torch.float32), tmp_path / "agent.pt", ABOUT)
    assert list(tmp_path.iterdir()) == []


class Lost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, obs: Tensor) -> QOut:
        return QOut(self.layer(obs) * float("nan"))


def test_nan_is_no_agreement(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nan"):
        export("torchscript", Lost(), random_batches((5,), torch.float32), tmp_path / "agent.pt", ABOUT)


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_a_missing_package_names_the_extra(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, missing, None)
    make, shape, dtype = NETS["vector"]
    with pytest.raises(ValueError, match=rf"--format onnx needs {missing}: pip install 'lockstep\[export\]'"):
        export("onnx", make(), random_batches(shape, dtype), tmp_path / "agent.onnx", ABOUT)


def test_random_batches_use_the_whole_range() -> None:
    small, one, large = random_batches((3, 20), torch.uint8)
    assert [len(small), len(one), len(large)] == [3, 1, 16]
    assert (large.min(), large.max()) == (0, 255)
    assert 0.3 < random_batches((3, 20), torch.bool)[2].float().mean() < 0.7
