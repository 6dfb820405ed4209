"""Opening a catalogue by the settings that commands share: the embedded one and the cache it lies in."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamdedup.catalog import rendered
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings, open_catalog, rendered_tables


def test_the_embedded_catalogue_is_drawn_beside_what_else_the_cache_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = rendered.render_catalog, []

    def few(folder: Path) -> Path:  # two families instead of a hundred
        drawn.append(folder)
        return draw(folder, families=2, size=32, workers=1, progress=False)

    monkeypatch.setattr(rendered, "render_catalog", few)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "pixels-of-another-run.bin").write_bytes(b"kept")
    catalog = open_catalog(CatalogSettings(source="rendered", cache_dir=str(cache)), Ledger())
    assert catalog.n_products > 2
    assert len(catalog.relisted)
    assert (cache / "pixels-of-another-run.bin").read_bytes() == b"kept"
    # What was drawn is found again, by whoever asks.
    table = Path(rendered_tables(cache)[0])
    assert table.parent == drawn[0] == drawn[1]
    assert table.parent.parent == cache
