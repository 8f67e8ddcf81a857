"""How a value that cannot be used is told."""

from __future__ import annotations


class ConfigError(ValueError):
    """A value the user stated cannot be used: one line that names field, value and remedy."""

    def __init__(self, name: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"--{name} {value}: {problem}; {remedy}")
