"""Gymnasium's async vector env, with workers replaced if they crash or hang, and killed so that nothing waits.

Its workers ignore SIGTERM, which the trainer handles (see `single`), so they are ended by SIGKILL.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from trainer.envs.base import Array, Flags
from trainer.envs.restarts import EnvError
from trainer.envs.single import FAILURE, Single

_SLICE = 0.25  # s; waiting is counted in these, so that suspending the whole run does not count as a hang

Vector: TypeAlias = "AsyncVectorEnv[Any, Any]"  # a string: generic only since Gymnasium 1.4
Row = tuple[Any, float, bool, bool, dict[str, Any]]


class Again(NamedTuple):
    """How to replace a worker: what builds its environment, and the seed of the first reset."""

    build: Callable[[], Single]
    seed: int


def start(thunks: Sequence[Callable[[], Single]], mode: AutoresetMode) -> Vector:
    """Fork one worker per thunk.

    Raises:
        EnvError: an environment that could be built here could not be built in a worker.
    """
    others = set(multiprocessing.active_children())
    try:
        with _forking():
            env: Vector = AsyncVectorEnv(thunks, copy=False, context="fork", autoreset_mode=mode)
    except (EOFError, OSError):
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise EnvError("an environment worker died while it was built; its traceback is above") from None
    for process in env.processes:
        _end_by_kill(process)
    return env


def send(env: Vector, actions: Array) -> None:
    """Begin a step; `wait` finds workers that have died meanwhile."""
    for pipe, action in zip(env.parent_pipes, actions, strict=True):
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            pipe.send(("step", action))
    env._state = AsyncState.WAITING_STEP


def wait(env: Vector, timeout: float, again: Callable[[int], Again]) -> tuple[Any, Array, Flags, Flags, dict[str, Any]]:
    """Return the results of the step, as `env.step` does.

    A worker that died, or does not answer for `timeout` [s], is replaced; its episode is cut at its last observation,
    and its info says so. Raises EnvError if an environment cannot be reset.
    """
    rows: list[Row] = []
    infos: dict[str, Any] = {}
    left = timeout
    for i, pipe in enumerate(env.parent_pipes):
        try:
            left = _await(pipe, left)
            row = _receive(env, pipe)
        except (EOFError, ConnectionError, TimeoutError) as error:
            row = _replace(env, i, _cause(env, i, error, timeout), again(i), timeout)
            left = max(left, _SLICE)  # for the others' answers, which may already be there
        rows.append(row)
        infos = env._add_info(infos, row[-1], i)
    env._state = AsyncState.DEFAULT
    _, reward, terminated, truncated, _ = zip(*rows, strict=True)
    return env.observations, np.array(reward), np.array(terminated, np.bool_), np.array(truncated, np.bool_), infos


@contextlib.contextmanager
def closed_on_error(env: VectorEnv[Any, Any, Any]) -> Iterator[None]:
    """Turn a worker's death into an EnvError, and end the other workers on any error."""
    try:
        yield
    except Exception as error:
        if not isinstance(env, AsyncVectorEnv) or env.closed:
            raise
        lost_one = isinstance(error, EOFError | OSError)
        ended = connection.wait([process.sentinel for process in env.processes], timeout=1.0) if lost_one else []
        dead = [i for i, process in enumerate(env.processes) if process.sentinel in ended]
        for process in env.processes:
            if process.sentinel not in ended:
                process.kill()
            process.join()
        env.closed = True
        if lost_one:
            codes = ", ".join(f"{i} with exit code {env.processes[i].exitcode}" for i in dead)
            raise EnvError(
                f"an environment worker process died: {codes} (-9: killed, often for lack of memory)"
            ) from None
        raise


def _await(pipe: Any, left: float) -> float:
    """Return how much of `left` [s] remains when `pipe` has data. Raises TimeoutError."""
    while not pipe.poll(min(_SLICE, max(left, 0.0))):
        left -= _SLICE
        if left <= 0:
            raise TimeoutError
    return left


def _receive(env: Vector, pipe: Any) -> Row:
    row: Row
    row, fine = pipe.recv()
    if not fine:
        _, _, value, trace = env.error_queue.get()
        raise EnvError(str(value) if isinstance(value, EnvError) else trace)
    return row


def _cause(env: Vector, i: int, error: BaseException, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"environment worker {i} hangs: no answer for {timeout:g} s (--env.timeout)"
    env.processes[i].join(1.0)
    return f"environment worker {i} died with exit code {env.processes[i].exitcode} (-9: killed, -11: segfault)"


def _replace(env: Vector, i: int, cause: str, again: Again, timeout: float) -> Row:
    """Fork a new worker in place of `i`, and return the row of its broken step."""
    env.processes[i].kill()
    env.processes[i].join()
    env.parent_pipes[i].close()
    last = np.array(env.observations[i])
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    more = len(inspect.signature(_async_worker).parameters) - 7  # Gymnasium 1.3 adds a concurrency limit, unused here
    shared = _Shared(env.observations)
    arguments = (i, again.build, child, parent, shared, env.error_queue, env.autoreset_mode, *[None] * more)
    process: Any = context.Process(target=_async_worker, args=arguments, daemon=True)
    with _forking():
        process.start()
    child.close()
    _end_by_kill(process)
    env.parent_pipes[i], env.processes[i] = parent, process
    if env.autoreset_mode is AutoresetMode.NEXT_STEP:  # its next step will be its first reset
        return None, 0.0, False, True, {FAILURE: cause}
    parent.send(("reset", {"seed": again.seed}))
    try:
        _await(parent, timeout)
        _receive(env, parent)
    except (EOFError, ConnectionError, TimeoutError):
        raise EnvError(f"{cause}, and so did its replacement") from None
    return None, 0.0, False, True, {"final_obs": last, "final_info": {FAILURE: cause}}


class _Shared:
    """The memory of all observations, in the form that Gymnasium's workers take."""

    def __init__(self, observations: Any) -> None:
        self._observations = observations

    def get_obj(self) -> Any:
        return self._observations


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    with warnings.catch_warnings():  # Python 3.12 warns about forking with threads; `single` says why it is sound
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        yield


def _end_by_kill(process: Any) -> None:
    """Make terminate kill: Gymnasium and multiprocessing's exit handler terminate what still runs, and wait for it."""
    popen = vars(process)["_popen"]
    popen.terminate = popen.kill
