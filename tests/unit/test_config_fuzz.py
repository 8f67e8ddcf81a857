"""Whatever is in a config.json or follows `lockstep train`: a config, or one line; never another exception."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.cli import flatten, parse_train, read_config
from trainer.config import Config
from trainer.layout import scaled
from trainer.presets import PRESETS
from trainer.validate import validate

FIELDS = sorted(name for name in flatten(Config().to_dict()) if name != "preset")
TEXT = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e400", "True", "False", "None", "none", "auto"]
    ),
    st.sampled_from(["10000000000000000000000", "1e-320", "[]", "{}", '{"a": 1}', "[1", "a b", "--", "-", "=", "\x00"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
OFTEN = settings(max_examples=300, deadline=None)


def refusal(call: Callable[[], Any]) -> str | None:
    """Why something was refused, in a line; None: it was accepted, or --help was shown."""
    said = None
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            call()
        except ValueError as error:
            said = " ".join(str(error).split())
        except SystemExit as stop:
            if stop.code:
                raise
    assert said is None or 0 < len(said) < 1_000, said
    return said


def settle(config: Config) -> None:
    """Check it as `lockstep train` does before importing torch."""
    validate(scaled(config, config.shards or 1), 1)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FIELDS), TEXT), min_size=1, max_size=3), st.booleans())
def test_arguments(changes: list[tuple[str, str]], joined: bool) -> None:
    arguments = ["debug"]
    for name, text in changes:
        arguments += [f"--{name}={text}"] if joined else [f"--{name}", text]
    refusal(lambda: settle(parse_train(arguments).config))


@OFTEN
@given(st.lists(TEXT, max_size=4))
def test_arguments_that_are_no_fields(arguments: list[str]) -> None:
    refusal(lambda: parse_train(arguments))


@OFTEN
@given(st.sampled_from(sorted(PRESETS)), st.lists(st.tuples(st.sampled_from(FIELDS), JSON), min_size=1, max_size=3))
def test_files(preset: str, changes: list[tuple[str, Any]]) -> None:
    values = PRESETS[preset]().to_dict()
    for name, value in changes:
        *path, last = name.split(".")
        inner = values
        for part in path:
            inner = inner[part]
        inner[last] = value
    read(json.dumps(values))


@OFTEN
@given(JSON)
def test_files_of_another_kind(value: Any) -> None:
    read(json.dumps(value))


@OFTEN
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_files_with_bytes_put_in(at: int, put: bytes) -> None:
    text = json.dumps(PRESETS["rainbow"]().to_dict()).encode()
    read(text[: at % len(text)] + put + text[at % len(text) + len(put) :])


def test_a_file_that_is_good_is_taken() -> None:
    assert read(json.dumps(PRESETS["rainbow"]().to_dict())) == PRESETS["rainbow"]()


def test_a_value_of_the_wrong_type_is_not() -> None:
    values = PRESETS["rainbow"]().to_dict()
    values["optim"]["lr"] = "fast"
    assert read(json.dumps(values)) is None


def read(content: str | bytes) -> Config | None:
    """What a file with this content is read as; None where it is refused in a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found: list[Config] = []
        if said := refusal(lambda: found.append(read_config(path, "--resume x"))):
            assert said.startswith("--resume x: its config.json cannot be read")
            return None
        refusal(lambda: settle(found[0]))
        return found[0]


@pytest.mark.parametrize("depth", [100, 100_000])
def test_a_file_of_many_brackets(depth: int) -> None:
    assert read("[" * depth + "]" * depth) is None
    assert read('{"env":' * depth + "1" + "}" * depth) is None
