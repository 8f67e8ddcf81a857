"""What is requested from SLURM, and the batch scripts that do so: text from templates, by pure functions."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

TEMPLATES = Path(__file__).parent
_SETTINGS = """\
python={python}
ranks_per_node={ranks}
max_restarts={restarts}      # of failed ranks within one life of the job, from the last checkpoint
site={site}                # modules, container, network interface: slurm/cluster.env.example
wrap=()                # prefix of every command that srun starts: a container's command line
srun_options=({srun})"""


@dataclass(frozen=True)
class Job:
    """What is requested from SLURM; empty text fields are left to the cluster's defaults."""

    nodes: int = 1
    gpus_per_node: int = 0
    ranks_per_node: int = 1
    cpus_per_rank: int = 4
    time: str = "8:00:00"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    memory: str = ""
    container: str = ""
    signal: str = "USR2"
    warn: int = 120  # seconds before the time limit
    max_requeues: int = 50
    max_restarts: int = 3
    python: str = "python"
    site: str = ""

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    def train(self, name: str, what: str, log: str, *, after: str = "", array: str = "") -> str:
        """Return the batch script of a run that requeues itself until it is finished.

        what: shell lines that set `run` and `arguments`; after: a line for the end of each life; array: --array.
        """
        before, task, behind = log.partition("%a")  # which SLURM replaces with the number of the array task
        options = {"signal": f"B:{self.signal}@{self.warn}", "requeue": None, "open-mode": "append"}
        return _fill(
            "batch.sh",
            {
                "SBATCH": self._header(name, log, {"array": array} if array else {}, options),
                "TORCHRUN": self._torchrun(str(self.nodes), "-m trainer train ARGUMENTS --resume auto"),
                "WHAT": what,
                "SETTINGS": self._settings(),
                "LOG": shlex.quote(before) + (f'"$SLURM_ARRAY_TASK_ID"{shlex.quote(behind)}' if task else ""),
                "MAX_REQUEUES": str(self.max_requeues),
                "SIGNAL": self.signal,
                "AFTER": f"  {after}\n" if after else "",
            },
        )

    def bench(self, name: str, what: str, log: str) -> str:
        """Return the batch script of a scaling benchmark on 1, 2, 4, ... nodes, up to all. what: as for `train`."""
        return _fill(
            "bench.sh",
            {
                "SBATCH": self._header(name, log, {}, {"no-requeue": None}),
                "TORCHRUN": self._torchrun("NODES", "-m benchmarks.scaling ARGUMENTS"),
                "WHAT": what,
                "SETTINGS": self._settings(),
                "NODES": " ".join(map(str, doublings(self.nodes))),
            },
        )

    def _header(self, name: str, log: str, first: dict[str, str], last: dict[str, str | None]) -> str:
        asked: dict[str, str | None] = {
            "job-name": name,
            **first,
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(self.cpus_per_rank * self.ranks_per_node),
            "gpus-per-node": str(self.gpus_per_node or ""),
            "mem": self.memory,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "output": log,
            **last,
        }
        lines = [(name, value) for name, value in asked.items() if value != ""]
        return "\n".join(f"#SBATCH --{name}" + ("" if value is None else f"={_quoted(value)}") for name, value in lines)

    def _torchrun(self, nodes: str, what: str) -> str:
        """Return the command that the script builds, for readers, with placeholders for what only the job knows."""
        options = f"--nnodes {nodes} --nproc-per-node {self.ranks_per_node} --max-restarts {self.max_restarts}"
        return f"torchrun {options} --rdzv-endpoint FIRST_NODE:PORT --rdzv-id JOB.LIFE {what}"

    def _settings(self) -> str:
        image = [f"--container-image={shlex.quote(self.container)}", '--container-mounts="$PWD:$PWD"']
        return _SETTINGS.format(
            python=shlex.quote(self.python),
            ranks=self.ranks_per_node,
            restarts=self.max_restarts,
            site=shlex.quote(self.site) if self.site else "",
            srun=" ".join(image) if self.container else "",
        )


def _fill(template: str, values: dict[str, str]) -> str:
    """Return the text of a template and its includes, with their placeholders filled in."""
    parts = {"MEETING": (TEMPLATES / "meeting.sh").read_text().rstrip("\n")} | values
    return re.sub(r"@([A-Z_]+)@", lambda mark: parts[mark[1]], (TEMPLATES / template).read_text())


def _quoted(value: str) -> str:
    """Return the value of an option, quoted for sbatch."""
    return f'"{value}"' if " " in value else value


def doublings(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to `most`, which is always included."""
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]


def seconds(limit: str) -> int:
    """Return a SLURM time limit in seconds: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    form = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if form is None:
        raise ValueError(f"--time {limit}: not a time; write e.g. 8:00:00 or 2-00:00:00")
    days, *rest = form.groups()
    a, b, c = (int(part) if part else 0 for part in rest)
    if days is not None:
        return ((int(days) * 24 + a) * 60 + b) * 60 + c
    if rest[2] is not None:
        return (a * 60 + b) * 60 + c
    return a * 60 + b  # minutes, or minutes:seconds
