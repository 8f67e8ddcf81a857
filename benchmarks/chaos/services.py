"""A Weights & Biases that is unreachable, never answers, or rejects our key; next to a run without it."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.row import Draw, Outcome, Row, outcome
from benchmarks.chaos.running import cost_beside

STEPS = "120000"
ENDPOINTS = ("refuses", "never answers", "wrong key")


def dead_service(folder: Path, draw: Draw) -> Outcome:
    """Two runs of one rank at the same time, one of which logs to a service that does not work."""
    kind = ENDPOINTS[draw.number % len(ENDPOINTS)]
    common = ["--total_env_steps", STEPS, "--log.tensorboard", "True"]
    with endpoint(kind) as port:
        env = {
            "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ERROR_REPORTING": "false",
        }
        cost_beside(folder, {"without": common, "with": [*common, "--log.wandb", "True"]}, env)
    rows = [[json.loads(row) for row in (folder / name / "metrics.jsonl").open()] for name in ("without", "with")]
    one, other = (statistics.median(1 / row["charts/SPS"] for row in part if "charts/SPS" in row) for part in rows)
    checks = {"every row is in metrics.jsonl": len(rows[0]) == len(rows[1]) > 10}
    found = outcome(checks, **{"step time %": 100 * (other / one - 1)})
    return Outcome(found.why and f"{kind}: {found.why}", found.measures)


@contextlib.contextmanager
def endpoint(kind: str) -> Iterator[int]:
    """A port on this machine where the service would be."""
    if kind == "wrong key":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
        server.server_close()
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connections are made, but never read
        port: int = listening.getsockname()[1]
        if kind == "refuses":
            listening.close()
        yield port


class _Forbidding(http.server.BaseHTTPRequestHandler):
    """Answers as the service does to an unknown key."""

    def do_POST(self) -> None:
        body = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ROWS = [
    Row(
        "service",
        "wandb / TensorBoard down, slow, wrong key",
        "never blocks, never ends a run",
        "<= 2 % step time with a dead endpoint, 0 crashes",
        dead_service,
        trials=6,
    )
]
