"""The command line: PRESET and --section.field VALUE become a Config, other flags a dataclass. Never imports torch.

tyro reads types, defaults and help texts off the dataclasses; this module adds one-line errors that name the field, the
value and the remedy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import tyro

from trainer.config import Config
from trainer.presets import PRESETS

USAGE = "lockstep train PRESET [--section.field VALUE ...] [--resume RUN|auto] [--ranks N]"

AUTO = "auto"
"""Value of --resume: the run named by --log.dir and --log.name, if it exists."""

MAY_CHANGE = ("total_env_steps", "log.", "checkpoint.", "eval.", "sync.", "runtime.device", "runtime.threads")
MAY_CHANGE_RUNTIME = ("runtime.compile", "runtime.timeout", "runtime.save_timeout", "runtime.poll_every")
MAY_CHANGE_DATA = ("env.threads", "env.timeout", "env.max_restarts", "teacher.runs", "demos.path")
MAY_CHANGE_TOO = (*MAY_CHANGE_RUNTIME, *MAY_CHANGE_DATA, "optim.max_skipped")
"""Fields (or sections) that a resumed run may change: they do not affect what was computed so far."""

_T = TypeVar("_T")


class Request(NamedTuple):
    """What the user asked `lockstep train` for."""

    config: Config
    resume: Path | None
    ranks: int | None
    auto: bool = False  # --resume auto: start a run whose folder has no checkpoint, do not refuse it


def parse_train(argv: Sequence[str]) -> Request:
    """Turn the arguments after `train` into a request. Raises ValueError, in one line, if they are wrong."""
    rest = list(argv)
    resume = take(rest, "--resume")
    if resume == AUTO:
        return _parse_auto(rest)
    ranks = take(rest, "--ranks")
    if ranks is not None and not (ranks.isdigit() and int(ranks) > 0):
        raise ValueError(f"--ranks {ranks}: not a positive number; give the number of processes, e.g. --ranks 2")
    preset = rest.pop(0) if rest and not rest[0].startswith("-") else None
    wants_help = any(argument in ("-h", "--help") for argument in rest)
    if resume is not None:
        base = read_config(Path(resume) / "config.json", f"--resume {resume}")
        if preset is not None and preset != base.preset:
            raise ValueError(f"preset {preset}: the run in {resume} is {base.preset!r}; omit the preset")
    elif preset is None:
        if not wants_help:
            raise ValueError(f"no preset given: use one of {_some(PRESETS)} ({USAGE})")
        base = Config()
    else:
        base = find_preset(preset)
    _check_names(rest, [name for name in (*flatten(Config().to_dict()), "resume", "ranks") if name != "preset"])
    config = ask(
        Config,
        rest,
        f"lockstep train {preset or base.preset}",
        f"{USAGE}. The defaults shown are those of {base.preset!r}.",
        default=base,
        more="lockstep train PRESET --help",
    )
    if resume is not None:
        _check_changes(base, config)
    return Request(config, None if resume is None else Path(resume), None if ranks is None else int(ranks))


def _parse_auto(rest: list[str]) -> Request:
    """Parse `--resume auto`: continue the run of this name if it exists, else start it; for automatic restarts."""
    fresh = parse_train(rest)
    if not fresh.config.log.name:
        raise ValueError("--resume auto: no run named; add --log.name NAME")
    folder = Path(fresh.config.log.dir) / fresh.config.log.name
    if not (folder / "config.json").exists():
        return fresh._replace(auto=True)
    return parse_train([*rest, "--resume", str(folder)])._replace(auto=True)


def parse_options(cls: type[_T], argv: Sequence[str], command: str) -> _T:
    """Turn the arguments after `lockstep COMMAND` into its dataclass. Raises ValueError, in one line, if wrong."""
    fields: Any = cls
    _check_names(argv, [f.name for f in dataclasses.fields(fields)])
    return ask(cls, argv, f"lockstep {command}", cls.__doc__ or "", more=f"lockstep {command} --help")


def find_preset(name: str) -> Config:
    """Return a preset by name, or the config in a JSON file that a run left behind."""
    if name.endswith(".json"):
        return read_config(Path(name), f"preset {name}")
    if name not in PRESETS:
        raise ValueError(f"preset {name}: unknown; {_nearest(name, PRESETS)}")
    return PRESETS[name]()


def read_config(path: Path, asked: str) -> Config:
    """Read a config that `Config.to_dict` wrote. Raises ValueError, in one line starting with `asked`, the request."""
    if not path.is_file():
        raise ValueError(f"{asked}: no config.json found there; name a run folder, as printed at the start of the run")
    try:
        config: Config = _from_dict(Config, json.loads(path.read_text()))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{asked}: its config.json cannot be read ({error}); restore it, or start a new run") from None
    return config


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dotted fields in which two configs differ, with both values."""
    old, new = flatten(before.to_dict()), flatten(after.to_dict())
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def ask(cls: type[_T], argv: Sequence[str], prog: str, description: str, *, more: str, default: _T | None = None) -> _T:
    """Fill a dataclass from arguments. Raises ValueError in one line that refers to `more`, a help command."""
    said = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            filled: _T = tyro.cli(
                cls,
                prog=prog,
                description=description,
                args=list(argv),
                use_underscores=True,
                config=(tyro.conf.FlagConversionOff,),
                **options,
            )
            return filled
    except SystemExit as stop:
        if stop.code == 0:  # --help, already printed
            raise
        raise ValueError(_one_line(said.getvalue(), more)) from None


def _check_names(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Refuse unknown fields before tyro does: its error is a box and ignores sections."""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].split("=")[0].replace("-", "_")
            if name not in (*known, "help"):
                raise ValueError(f"--{name}: no such field; {_nearest(name, known, '--')}")


def _check_changes(before: Config, after: Config) -> None:
    for name, (old, new) in changes(before, after).items():
        if not name.startswith((*MAY_CHANGE, *MAY_CHANGE_TOO)):
            may = ", ".join(field.removesuffix(".") for field in (*MAY_CHANGE, *MAY_CHANGE_TOO))
            raise ValueError(f"--{name} {new}: the run to resume has {old}; only these may change: {may}")


def take(arguments: list[str], flag: str) -> str | None:
    """Remove `flag VALUE` or `flag=VALUE` from the arguments and return the value."""
    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise ValueError(f"{flag}: missing value; {USAGE}")
            _, value = arguments.pop(i), arguments.pop(i)
            return value
        if argument.startswith(flag + "="):
            return arguments.pop(i).split("=", 1)[1]
    return None


def _nearest(name: str, known: Any, prefix: str = "") -> str:
    tail = {k.rsplit(".", 1)[-1]: k for k in known}
    near = difflib.get_close_matches(name, known, 3, 0.6) or [
        tail[k] for k in difflib.get_close_matches(name.rsplit(".", 1)[-1], tail, 3, 0.6)
    ]
    if near:
        return f"did you mean {' or '.join(prefix + n for n in near)}?"
    return "see --help for all of them" if prefix else f"use one of {_some(known)}"


def _some(presets: Iterable[str], count: int = 8) -> str:
    """Return the first presets and how to list the rest."""
    names = list(presets)
    return f"{', '.join(names[:count])}, ... (`lockstep presets` lists all {len(names)})"


def _one_line(box: str, more: str) -> str:
    """Return the message inside tyro's box."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    body = []
    for line in lines[1:]:
        if not line or line.startswith("─"):
            break
        body.append(line)
    text = re.sub(
        r"no type matching \{None\}\|(\S+) could be instantiated from \[(.*)\]", r"\2 is not \1", " ".join(body)
    )
    return f"{text.rstrip('.')}; see `{more}`" if text else box.strip()


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields of a config, given as by `to_dict`, by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def _from_dict(cls: Any, values: Any, prefix: str = "") -> Any:
    """Rebuild nested dataclasses; refuse unknown fields, fill missing ones with their defaults."""
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.removesuffix('.') or 'it'} is {values!r}, not an object of fields")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(values) - set(fields)
    if unknown:
        raise ValueError(f"unknown field {prefix}{sorted(unknown)[0]}: written by another version of lockstep?")
    hints = get_type_hints(cls)
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = _from_dict(hint, value, f"{prefix}{name}.")
        elif not _fits(value, hint):
            raise ValueError(f"{prefix}{name} is {value!r}, not {getattr(hint, '__name__', hint)}")
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is valid for a field of this type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in inner
    if kind is UnionType:
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        if not isinstance(value, list) or (inner[-1] is not ... and len(value) != len(inner)):
            return False
        return all(_fits(item, inner[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
