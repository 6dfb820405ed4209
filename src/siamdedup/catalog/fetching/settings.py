"""What may be set about fetching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siamdedup import __version__
from siamdedup.errors import ConfigError


@dataclass(frozen=True)
class FetchSettings:
    """How to fetch. Plain values, so that a config file can hold them.

    Attributes:
        concurrency: requests under way at most; ``per_host`` of them to one host.
        timeout_s: for one request: name look-up, redirects and body together. ``connect_s`` for one connection.
        max_mb: largest body in megabytes (10^6 bytes), counted as it arrives and after decompression.
        retries: times that a failure which may pass is tried again. So often, too, a host is tried that cannot be
            connected to; then its other URLs are left for the next run.
        backoff_s: before retry k a random wait of up to ``backoff_s`` 2^k seconds, at most 30 ("full jitter").
            A server's Retry-After holds for all of its URLs, at most ``retry_after_s``.
        max_redirects: redirects followed at most, also from https to http.
        allow_private: whether private, loopback and other special addresses may be connected to: true, false, or
            the networks that may ("10.1.0.0/16").
        retry_failed: ask again for URLs whose failure was permanent.
        user_agent: how to introduce ourselves.
        seed: of the waits.
    """

    concurrency: int = 64
    per_host: int = 8
    timeout_s: float = 30.0
    connect_s: float = 10.0
    max_mb: float = 50.0
    retries: int = 4
    backoff_s: float = 0.5
    retry_after_s: float = 60.0
    max_redirects: int = 5
    allow_private: bool | Sequence[str] = False
    retry_failed: bool = False
    user_agent: str = f"siamdedup/{__version__}"
    seed: int = 0

    def __post_init__(self) -> None:
        floors = {"concurrency": 1, "per_host": 1, "retries": 0, "backoff_s": 0, "max_redirects": 0}
        for name, floor in {**floors, "retry_after_s": 0}.items():
            if not getattr(self, name) >= floor:
                raise ConfigError(f"{getattr(self, name)} is less than {floor}", where=f"fetch.{name}")
        for name in ("timeout_s", "connect_s", "max_mb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{getattr(self, name)} is not above 0", where=f"fetch.{name}")

    @property
    def limits(self) -> frozenset[str]:
        """The settings that permanent failures may rest on (``Failure.under``)."""
        return frozenset({self.size_limit, self.address_limit, self.redirect_limit})

    @property
    def size_limit(self) -> str:
        return f"max_mb={self.max_mb:g}"

    @property
    def redirect_limit(self) -> str:
        return f"max_redirects={self.max_redirects}"

    @property
    def address_limit(self) -> str:
        allowed = self.allow_private
        return f"allow_private={allowed if isinstance(allowed, bool) else sorted(map(str, allowed))}"
