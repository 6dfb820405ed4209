"""Errors a user can act on: what is wrong, where, and the remedy."""


class SiamdedupError(Exception):
    """Base of all errors that are the input's fault, not the program's; shown without a traceback."""

    exit_code = 2

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        text = f"{where}: {problem}" if where else problem
        super().__init__(f"{text}\n  Remedy: {remedy}" if remedy else text)


class CatalogError(SiamdedupError):
    """The catalogue as a whole cannot be used (single bad rows go to the ledger instead)."""


class ImageError(SiamdedupError):
    """One picture cannot be read."""


class WeightsError(SiamdedupError):
    """Backbone or weights cannot be had."""


class CheckpointError(SiamdedupError):
    """A checkpoint does not hold what is asked of it."""


class OperatingPointError(SiamdedupError):
    """No threshold can be chosen, or none is there to apply."""


class UnusableError(SiamdedupError):
    """The run is done and everything is written, but more pictures were unusable than its policy allows."""

    exit_code = 3


class ConfigError(SiamdedupError):
    """Settings contradict each other."""
