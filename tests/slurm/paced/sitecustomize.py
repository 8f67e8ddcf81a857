"""Put on PYTHONPATH by tests: ranks take LOCKSTEP_TEST_PACE seconds longer for a step, so that runs last while things
happen to them. What they compute stays the same."""

import os
import time

if "LOCKSTEP_TEST_PACE" in os.environ and "RANK" in os.environ:
    from trainer.run import Run

    _advance = Run.advance
    _pace = float(os.environ["LOCKSTEP_TEST_PACE"])

    def _slowly(self, step, timestep):  # type: ignore[no-untyped-def]
        time.sleep(_pace)
        return _advance(self, step, timestep)

    Run.advance = _slowly  # type: ignore[method-assign]
