"""On a real shop the doctor counts what is there and claims nothing; on a damaged copy it finds every damage."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data
from damage import Damage, damage, damage_siblings
from health_helpers import by_kind, look

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import read_catalog_with_report
from siamdedup.report.health import Health, examine
from siamdedup.report.health_facts import PixelFacts
from siamdedup.types import Catalog


@dataclass(frozen=True)
class Case:
    catalog: Catalog
    pixels: PixelFacts
    health: Health
    damages: list[Damage]


@pytest.fixture(scope="module")
def magento() -> Path:
    data = shared_data()
    if data is None or not (data / "magento" / "catalog.csv").exists():
        pytest.skip("needs magento/catalog.csv under SIAMDEDUP_DATA")
    return data / "magento" / "catalog.csv"


def case(path: Path, damages: list[Damage]) -> Case:
    ledger = Ledger()
    catalog, table = read_catalog_with_report(path, ledger=ledger)
    pixels = look(catalog)
    return Case(catalog, pixels, examine(catalog, table, pixels, ledger, limit=1000), damages)


@pytest.fixture(scope="module")
def sound(magento: Path) -> Case:
    return case(magento, [])


@pytest.fixture(scope="module")
def damaged(magento: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    out = tmp_path_factory.mktemp("damaged")
    return case(out / "catalog.csv", damage(magento, out, seed=7))


def test_the_sound_shop_is_counted_right_and_nothing_is_claimed(sound: Case, magento: Path) -> None:
    with magento.open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    shown, families = defaultdict(set), defaultdict(set)
    for row in rows:
        for name in row["imageUrlStr"].split(";"):
            shown[name].add(row["productId"])
            families[name].add(row["productFamily"])
    content = Counter(hashlib.sha256((magento.parent / name).read_bytes()).digest() for name in shown)
    sizes = Counter(Counter(row["productFamily"] for row in rows).values())
    counts = sound.health.counts
    assert (len(rows), len({row["productFamily"] for row in rows}), len(shown)) == (1847, 147, 668)
    assert counts["products"] == 1847
    assert counts["families"] == 147
    assert counts["pictures (distinct names)"] == counts["readable pictures"] == 668
    assert counts["different picture files"] == len(content)
    assert counts["pictures as listed by products"] == sum(len(r["imageUrlStr"].split(";")) for r in rows)
    assert counts["pictures of several products"] == sum(len(ids) > 1 for ids in shown.values())
    assert counts["pictures of several families"] == sum(len(names) > 1 for names in families.values())
    found = by_kind(sound.health)
    within = sum(len(shown[name]) > 1 and len(families[name]) == 1 for name in shown)
    assert found["shared-in-family"][0].count == within
    copies = sum(count > 1 for count in content.values())
    assert sum(f.count for kind in ("copies", "shared-bytes") for f in found.get(kind, [])) == copies
    histogram = sound.health.histograms["Products of a family"]
    assert histogram["5"] == sizes[5]
    assert histogram["11–20"] == sum(sizes[k] for k in range(11, 21))
    assert sum(histogram.values()) == 147
    assert {f.severity for f in sound.health.findings} == {"fine"}
    assert sound.health.worst == "fine"
    assert sound.health.can_dedup
    assert sound.health.can_train


def test_every_damage_is_found_with_its_row(damaged: Case) -> None:
    found = by_kind(damaged.health)
    missed = [
        d
        for d in damaged.damages
        if d.finding
        and not any(
            example.row == d.row
            and Path(example.source).name == "catalog.csv"
            and (not d.item or example.item == d.item)
            for finding in found.get(d.finding, [])
            for example in finding.examples
        )
    ]
    assert not missed
    assert {d.finding for d in damaged.damages} >= {
        "malformed-row", "repeated-id", "repeated-id-other-family", "repeated-id-other-pictures", "no-id", "no-family",
        "no-picture", "outside-root", "unsupported-address", "alike-ids", "control-character", "spreadsheet-id",
        "nameless-family", "many-pictures", "large-family", "missing-file", "empty-file", "unreadable",
        "blank-picture", "tiny-picture", "long-picture", "shared-name", "shared-bytes", "shared-look", "placeholder",
    }  # fmt: skip


def test_nothing_is_called_bad_that_was_not_damaged(damaged: Case) -> None:
    planted = Counter(d.finding for d in damaged.damages)
    for finding in damaged.health.findings:
        if finding.severity == "bad":
            rows = {d.row for d in damaged.damages if d.finding == finding.kind}
            assert {e.row for e in finding.examples} <= rows, finding
    for kind in (
        "blank-picture",
        "tiny-picture",
        "long-picture",
        "many-pictures",
        "alike-ids",
        "control-character",
    ):
        assert sum(f.count for f in by_kind(damaged.health)[kind]) == planted[kind], kind
    assert damaged.health.worst == "bad", "a tenth of damage does not make a catalogue unusable"


def test_unusual_pictures_are_read_like_any_other(damaged: Case) -> None:
    names = damaged.catalog.image_paths.to_pylist()
    fine = [d.item for d in damaged.damages if not d.finding]
    assert len(fine) == 3
    named = {e.item for f in damaged.health.findings for e in f.examples}
    for name in fine:
        assert damaged.pixels.readable[names.index(name)], name
        assert name not in named, name


def test_the_damaged_rows_are_where_the_list_says(damaged: Case) -> None:
    """The record numbers of the list against the file itself, read by the csv module."""
    with Path(damaged.catalog.sources[0]).open(encoding="utf-8", newline="") as file:
        records = [*csv.reader(file)][1:]
    for d in damaged.damages:
        assert d.item in ",".join(records[d.row - 1])
        assert (len(records[d.row - 1]) != 4) == (d.finding == "malformed-row")


def test_the_source_is_left_alone(damaged: Case, sound: Case) -> None:
    assert np.array_equal(np.sort(sound.pixels.digests), np.sort(look(sound.catalog).digests))


def test_lists_of_siblings_that_contradict_each_other(magento: Path, tmp_path: Path) -> None:
    damages = damage_siblings(magento, tmp_path, seed=3)
    ledger = Ledger()
    columns = {"family_is": "siblings", "family_pattern": "[^,]+"}
    catalog, table = read_catalog_with_report(tmp_path / "catalog.csv", columns=columns, ledger=ledger)
    health = examine(catalog, table, None, ledger)
    found = by_kind(health)
    assert health.counts["families"] == 147
    assert len(damages) == 2
    for d in damages:
        assert [(e.row, e.item) for e in found[d.finding][0].examples] == [(d.row, d.item)]
        assert found[d.finding][0].count == 1
    assert found["one-sided-siblings"][0].count == 1
    json.dumps(health.to_dict(), allow_nan=False)


def test_lists_of_siblings_that_are_read_as_names_are_noticed(magento: Path, tmp_path: Path) -> None:
    damage_siblings(magento, tmp_path)
    ledger = Ledger()
    catalog, table = read_catalog_with_report(
        tmp_path / "catalog.csv", columns={"family_is": "label"}, ledger=ledger
    )
    health = examine(catalog, table, None, ledger)
    assert health.worst == "broken"
    assert not health.can_dedup
    assert "family_is=siblings" in by_kind(health)["family-is-list"][0].remedy
