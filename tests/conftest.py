"""One thread for torch in this process and in those that tests start: small tensors lose by sharing, and so do tests."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported, which is later
