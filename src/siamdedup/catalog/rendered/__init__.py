"""The embedded catalogue: product photographs drawn by our own code, so nothing need be downloaded."""

from __future__ import annotations

from siamdedup.catalog.rendered.catalog import RENDER_VERSION, render_catalog

__all__ = ["RENDER_VERSION", "render_catalog"]
