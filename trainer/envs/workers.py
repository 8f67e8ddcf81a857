"""Starting and ending the processes of Gymnasium's async vector env so that nothing hangs.

Its workers ignore SIGTERM, which is the trainer's to handle (see `single`), so they are ended by SIGKILL.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from trainer.envs.single import EnvError, Single


def start(thunks: Sequence[Callable[[], Single]], mode: AutoresetMode) -> AsyncVectorEnv[Any, Any]:
    """Fork one worker per thunk.

    Raises:
        EnvError: an environment that could be built here could not be built there.
    """
    others = set(multiprocessing.active_children())
    try:
        with warnings.catch_warnings():  # Python 3.12 warns of forking with threads; `single` says why it is sound
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            env: AsyncVectorEnv[Any, Any] = AsyncVectorEnv(thunks, copy=False, context="fork", autoreset_mode=mode)
    except (EOFError, OSError):
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise EnvError("an environment worker died while it was built; its traceback is above") from None
    for process in env.processes:
        # Gymnasium and multiprocessing's exit handler end what is still running by terminate, and then wait for it.
        popen: Any = vars(process)["_popen"]
        popen.terminate = popen.kill
    return env


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
