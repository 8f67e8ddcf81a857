"""Which part may import which: the design's table, checked on the source with ast, and on real processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# part of trainer/ -> the other parts that it may import. Every part is in the table; a new one has to be added.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "types": {"schedules"},
    "config": set(),
    "schedules": set(),
    "atari_scores": set(),
    "runtime": set(),
    "log": {"types"},
    "envs": {"types"},
    "nets": {"types"},
    "losses": {"types"},
    "replay": {"types"},
    "sync": {"types", "runtime"},
    "checkpoint": {"types"},
    "presets": {"config"},
    "cli": {"config", "presets"},
    "validate": {"config", "combinations", "combinations_sync", "compilable"},
    "combinations": {"config"},
    "combinations_sync": {"config"},
    "layout": {"config", "schedules"},
    "policy": {"types"},
    "streams": {"types"},
    "learner": {"types"},
    "tape": {"types"},
    "compiled": {"types", "learner", "tape"},
    "compiled_acting": {"types", "tape", "compiled", "policy"},
    "compilable": {"config"},
    "skipped": set(),
    "evaluate": {"types"},
    "export": {"types"},
    "doctor": {"runtime"},
    "run": {"types", "config", "layout", "learner", "skipped", "evaluate"},
    "train": {"run"},
    "build": {"*"},
    "commands": {"*"},
    "__main__": {"cli", "commands", "runtime"},
}
IMPORTED_BY_NOBODY_BUT = {"build": {"commands"}, "commands": {"__main__"}, "__main__": set[str]()}

# parts that load without torch, so that a typo or --help is answered at once
NO_TORCH = ("config", "schedules", "presets", "cli", "validate", "layout", "atari_scores")
NO_TORCH += ("doctor.verdict", "commands.doctor", "combinations", "combinations_sync", "compilable")
DISTRIBUTED = {"runtime", "sync", "checkpoint"}
ENVIRONMENT = {"runtime"}


class Import(NamedTuple):
    path: Path
    line: int
    module: str  # dotted
    top: bool  # runs when the file is imported

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def part_of(path: Path) -> str:
    """The part of trainer/ that a file belongs to: its folder there, or itself."""
    first = path.relative_to(ROOT / "trainer").parts[0]
    return first.removesuffix(".py")


def defers(node: ast.AST) -> bool:
    """Whether the content of this node does not run on import: a function, or `if TYPE_CHECKING`."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text())
    inner = {id(node) for outer in ast.walk(tree) if defers(outer) for node in ast.walk(outer)}
    found = []
    for node in ast.walk(tree):
        top = id(node) not in inner
        if isinstance(node, ast.Import):
            found += [Import(path, node.lineno, alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            found += [Import(path, node.lineno, f"{module}.{alias.name}", top) for alias in node.names]
    return found


FILES = sorted((ROOT / "trainer").rglob("*.py"))
IMPORTS = {path: imports(path) for path in FILES}


def test_every_part_is_in_the_table() -> None:
    assert {part_of(path) for path in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_of_ours(part: str) -> None:
    allowed = MAY_IMPORT[part] | {part}
    wrong = []
    for path in FILES:
        if part_of(path) != part:
            continue
        for found in IMPORTS[path]:
            words = found.module.split(".")
            if words[0] == "launch" and part != "__main__":
                wrong.append(str(found))
            if words[0] != "trainer":
                continue
            target = words[1] if len(words) > 1 else ""
            if target not in allowed and "*" not in allowed:
                wrong.append(str(found))
            if part != target and part not in IMPORTED_BY_NOBODY_BUT.get(target, {part}):
                wrong.append(f"{found}, which only {IMPORTED_BY_NOBODY_BUT[target]} may")
    assert not wrong


def test_torch_distributed_is_named_in_few_places() -> None:
    wrong = [
        str(found)
        for path in FILES
        for found in IMPORTS[path]
        if found.module.startswith("torch.distributed") and part_of(path) not in DISTRIBUTED
    ]
    wrong += [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "distributed"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
        and part_of(path) not in DISTRIBUTED
    ]
    assert not wrong


def test_the_process_environment_is_read_in_runtime_alone() -> None:
    wrong = []
    for path in FILES:
        if part_of(path) in ENVIRONMENT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names}
            if names & {"environ", "getenv", "putenv"}:
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert not wrong


def test_concrete_classes_are_named_in_build_alone() -> None:
    """Outside the composition root (and the commands, which call it) leaf parts are known only as protocols."""
    leaves = {"envs", "nets", "losses", "replay", "sync", "checkpoint", "log"}
    wrong = [
        str(found)
        for path in FILES
        for found in IMPORTS[path]
        if found.module.split(".")[0] == "trainer"
        and found.module.split(".")[1] in leaves - {part_of(path)}
        and part_of(path) not in ("build", "commands")
    ]
    assert not wrong


def test_optional_packages_are_imported_inside_functions() -> None:
    optional = {"ale_py", "minatar", "Box2D", "pygame", "tensorboard", "wandb", "PIL", "matplotlib", "onnx"}
    optional |= {"onnxruntime", "onnxscript"}
    wrong = [
        str(found)
        for path in FILES
        for found in IMPORTS[path]
        if found.top and (found.module.split(".")[0] in optional or found.module.startswith("torch.utils.tensorboard"))
    ]
    assert not wrong


def test_launch_needs_the_standard_library_alone() -> None:
    known = set(sys.stdlib_module_names) | {"launch"}
    files = (ROOT / "launch").rglob("*.py")
    wrong = [str(found) for path in files for found in imports(path) if found.module.split(".")[0] not in known]
    assert not wrong


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh process has loaded after `code`."""
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(out.stderr.split())


@pytest.mark.parametrize("part", NO_TORCH)
def test_comes_up_without_torch(part: str) -> None:
    assert "torch" not in loaded_by(f"import trainer.{part}")


@pytest.mark.parametrize(
    "arguments", [["train", "debug", "--optim.lrr", "1"], ["trian"], ["train", "debugg"], ["--help"]], ids=" ".join
)
def test_a_typo_is_answered_without_torch(arguments: list[str]) -> None:
    assert "torch" not in loaded_by(f"from trainer.__main__ import main; main({arguments})")
