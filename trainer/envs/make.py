"""From an environment's id to its backend; user errors are reported in one line."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch

from trainer.envs import device as on_device
from trainer.envs import minatar, toy
from trainer.envs.ale import AleBackend
from trainer.envs.base import CPU, Backend, EnvSpec, take_limit
from trainer.envs.gymnasium_vector import GymnasiumBackend
from trainer.envs.minatar import MinAtarBackend
from trainer.envs.native import NativeBackend
from trainer.envs.restarts import Restarts
from trainer.envs.single import make_single
from trainer.envs.spaces import ObsCodec, discrete_actions
from trainer.envs.toy import ToyBackend

KINDS = ("sync", "async", "native", "ale", "minatar", "toy", "torch")
EXTRAS = {"ale_py": "atari", "minatar": "minatar", "Box2D": "box2d", "pygame": "box2d"}  # module -> extra
OWNERS = {"ALE/": "ale", "MinAtar/": "minatar", "toy/": "toy"}  # namespace -> the only backend for it


def make_backend(
    kind: str,
    env_id: str,
    num_envs: int,
    seeds: Sequence[int],
    *,
    autoreset: str = "auto",
    kwargs: Mapping[str, Any] | None = None,
    sticky: float | None = None,
    full_action_space: bool = False,
    frame_skip: int = 4,
    frame_stack: int = 4,
    noop_max: int = 0,
    fire_reset: bool = False,
    life_loss: bool = False,
    threads: int = 0,
    render: bool = False,
    restarts: Restarts | None = None,
    timeout: float = math.inf,
    device: torch.device = CPU,
) -> Backend:
    """Build the vector environment of one shard, with one seed per environment.

    kind is one of `KINDS` or auto. Atari takes sticky to threads; MinAtar sticky and full_action_space; Gymnasium's
    sync and async restarts, which counts failed environments (None: none is tolerated), and timeout of an async step
    [s]; torch the device that it lives on.

    Raises:
        ValueError: the environment cannot be built or learned from; one line, with the remedy.
    """
    assert len(seeds) == num_envs > 0
    kwargs = kwargs or {}
    take_limit(dict(kwargs), None)
    with _one_line(env_id, kwargs):
        kind = _resolve(kind, env_id, num_envs)
        if kind == "ale":
            return AleBackend(
                env_id,
                num_envs,
                seeds,
                autoreset=autoreset,
                kwargs=kwargs,
                sticky=sticky,
                full_action_space=full_action_space,
                frame_skip=frame_skip,
                frame_stack=frame_stack,
                noop_max=noop_max,
                fire_reset=fire_reset,
                life_loss=life_loss,
                threads=threads,
            )
        if kind == "minatar":
            return MinAtarBackend(
                env_id,
                num_envs,
                seeds,
                autoreset=autoreset,
                kwargs=kwargs,
                sticky=sticky,
                full_action_space=full_action_space,
            )
        if kind == "torch":
            return on_device.DeviceBackend(
                env_id,
                num_envs,
                seeds,
                autoreset=autoreset,
                kwargs=kwargs,
                sticky=sticky,
                full_action_space=full_action_space,
                device=device,
            )
        if kind == "toy":
            return ToyBackend(env_id, num_envs, seeds, autoreset=autoreset, kwargs=kwargs)
        if kind == "native":
            return NativeBackend(env_id, num_envs, seeds, autoreset=autoreset, kwargs=kwargs, render=render)
        _probe(env_id, kwargs)
        assert kind in ("sync", "async")
        return GymnasiumBackend(
            "sync" if kind == "sync" else "async",
            env_id,
            num_envs,
            seeds,
            autoreset=autoreset,
            kwargs=kwargs,
            render=render,
            restarts=restarts or Restarts(),
            timeout=timeout,
        )


def env_spec(kind: str, env_id: str, num_envs: int = 2, **options: Any) -> EnvSpec:
    """Build one environment, look at it and close it; kind and options as in `make_backend`.

    num_envs only serves to resolve auto (an environment's own vector version is for more than one).

    Raises:
        ValueError: as `make_backend`, before anything expensive.
    """
    with _one_line(env_id, options.get("kwargs") or {}):
        kind = _resolve(kind, env_id, num_envs)
    # The sync backend observes the same as the async one, without starting processes.
    probe = make_backend("sync" if kind == "async" else kind, env_id, 1, [0], **options)
    try:
        return EnvSpec(
            kind=kind,
            obs_shape=probe.obs_shape,
            obs_dtype=probe.obs_dtype,
            num_actions=probe.num_actions,
            stack=probe.stack,
            stack_pad=probe.stack_pad,
            saves_state=probe.saves_state,
        )
    finally:
        probe.close()


def _resolve(kind: str, env_id: str, num_envs: int) -> str:
    """Return the backend, with `auto` resolved, having checked that env_id exists and that kind can step it."""
    if kind not in ("auto", *KINDS):
        raise ValueError(f"there is no backend {kind}; use auto, {', '.join(KINDS)}")
    if kind == "torch":
        if env_id not in on_device.IDS:
            raise ValueError(f"the torch backend cannot step {env_id}, only {', '.join(on_device.IDS)}; use auto")
        return kind
    for namespace, owner in OWNERS.items():
        if env_id.startswith(namespace):
            if kind not in ("auto", owner):
                raise ValueError(f"{env_id} runs on the {owner} backend, not on {kind}; use auto")
            _check_known(owner, env_id)
            return owner
    if kind in OWNERS.values():
        raise ValueError(f"the {kind} backend cannot step {env_id}; use auto")
    spec = _spec(env_id)
    native = spec.vector_entry_point
    if kind == "native" and native is None:
        raise ValueError(f"{env_id} has no vector version of its own; use the sync or async backend")
    if kind != "auto":
        return kind
    # Gymnasium's phys2d environments run on JAX, which is not worth a dependency for CartPole.
    is_jax = isinstance(native, str) and ".phys2d." in native
    return "native" if native is not None and not is_jax and num_envs > 1 else "sync"


def _spec(env_id: str) -> gym.envs.registration.EnvSpec:
    package, _, name = env_id.rpartition(":")
    if package:
        importlib.import_module(package)
    try:
        return gym.spec(name)
    except gym.error.Error:
        raise ValueError(_unknown(env_id)) from None


def _check_known(owner: str, env_id: str) -> None:
    if owner == "ale":
        _import_ale(env_id)
        known = env_id in gym.registry
    else:
        known = env_id in (minatar.IDS if owner == "minatar" else toy.GAMES)
    if not known:
        raise ValueError(_unknown(env_id))


def _import_ale(env_id: str) -> None:
    try:
        import ale_py
    except ModuleNotFoundError:
        raise ValueError(f"{env_id} needs ale-py: pip install 'lockstep[atari]'") from None
    gym.register_envs(ale_py)


def _probe(env_id: str, kwargs: Mapping[str, Any]) -> None:
    """Build and close one environment, so that its errors are found outside the workers."""
    env = make_single(env_id, kwargs, render=False)
    try:
        ObsCodec(env.observation_space, env_id)
        discrete_actions(env.action_space, env_id)
    finally:
        env.close()


@contextlib.contextmanager
def _one_line(env_id: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of Gymnasium while building an environment into ValueErrors of one line."""
    try:
        yield
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise ValueError(_missing(env_id, error)) from None
    except (TypeError, AssertionError, gym.error.Error) as error:
        given = f" with the arguments {dict(kwargs)}" if kwargs else ""
        raise ValueError(f"{env_id} cannot be built{given}: {_first_line(error)}") from None


def _unknown(env_id: str) -> str:
    with contextlib.suppress(ValueError):
        _import_ale(env_id)
    known = [*gym.registry, *minatar.IDS, *toy.GAMES]
    lower = {name.lower(): name for name in known}
    near = [lower[name] for name in difflib.get_close_matches(env_id.lower(), lower, n=3, cutoff=0.5)]
    advice = (
        f"did you mean {' or '.join(near)}?" if near else "`package:MyEnv-v0` imports the package that registers it"
    )
    return f"there is no environment {env_id}; {advice}"


def _missing(env_id: str, error: Exception) -> str:
    """Return what to install; error or one of its causes is an ImportError that names a module."""
    cause: BaseException | None = error
    while cause is not None:
        module = getattr(cause, "name", None)
        if isinstance(module, str):
            extra = EXTRAS.get(module.partition(".")[0])
            if extra is not None:
                return f"{env_id} needs {module}: pip install 'lockstep[{extra}]'"
            break
        cause = cause.__cause__
    return f"{env_id} cannot be imported: {_first_line(error)}; install what it needs, or correct the id"


def _first_line(error: Exception) -> str:
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line.partition(" was raised from the environment creator")[0]
