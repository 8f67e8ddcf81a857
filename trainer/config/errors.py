"""The error for a value that cannot be used."""

from __future__ import annotations


class ConfigError(ValueError):
    """A value that the user stated cannot be used: one line that names field, value and remedy."""

    def __init__(self, name: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"--{name} {value}: {problem}; {remedy}")
