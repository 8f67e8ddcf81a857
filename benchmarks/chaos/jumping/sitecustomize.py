"""Put on PYTHONPATH by a row of the table: the wall clock jumps by a day every second, back and forth."""

import itertools
import time

DAY = 86_400.0
_time, _monotonic = time.time, time.monotonic
_directions = itertools.cycle((DAY, -DAY, 0.0))
_state = [_monotonic(), next(_directions)]


def _jumping() -> float:
    if _monotonic() - _state[0] > 1.0:
        _state[:] = _monotonic(), next(_directions)
    return _time() + _state[1]


time.time = _jumping
time.time_ns = lambda: int(_jumping() * 1e9)
