"""The doctor: what is counted is right, what is odd is found and named with its row, what is sound is left alone."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from health_helpers import by_kind, catalog_of, facts

from siamdedup.catalog.health import SEVERITIES
from siamdedup.catalog.ledger import Ledger
from siamdedup.report.health import examine
from siamdedup.types import Catalog

SOUND = [(f"P{f}-{p}", [f"{f}-{p}.png", f"{f}-back.png"], f"F{f}") for f in range(4) for p in range(3)]


def test_a_sound_catalogue_is_fine_and_can_be_used() -> None:
    health = examine(catalog_of(SOUND), None, None, Ledger())
    assert health.worst == "fine"
    assert [f.kind for f in health.findings] == ["shared-in-family"]
    assert health.findings[0].count == 4
    assert health.can_dedup
    assert health.can_train
    assert health.counts["products"] == 12
    assert health.counts["families"] == 4
    assert health.counts["pictures (distinct names)"] == 16
    assert health.counts["pictures as listed by products"] == 24
    assert health.histograms["Products of a family"] == {"1": 0, "2": 0, "3": 4}
    assert health.histograms["Products that show a picture"] == {"1": 12, "2": 0, "3": 4}
    assert health.largest_families[0] == ("F0", 3)
    assert not health.pixels


@pytest.mark.parametrize(
    ("ids", "alike"),
    [
        (["a-1", "A-1", "a-2"], [0, 1]),
        (["a 1", "a1", "b"], [0, 1]),
        (["caf\u00e9", "cafe\u0301", "cafe"], [0, 1]),
        (["１", "1", "2"], [0, 1]),  # full-width
        (["x\u200b", "y", "x"], [0, 2]),
        (["a1", "b1", "c1"], []),
    ],
)
def test_ids_that_only_the_eye_confuses(ids: list[str], alike: list[int]) -> None:
    catalog = catalog_of([(name, [f"{k}.png"], f"F{k}") for k, name in enumerate(ids)])
    found = by_kind(examine(catalog, None, None, Ledger())).get("alike-ids", [])
    assert [e.row - 1 for f in found for e in f.examples] == alike
    assert all(e.item == ids[e.row - 1] for f in found for e in f.examples)


def test_suspicious_ids_families_and_lists() -> None:
    rows = [
        ("4.9E+12", ["a.png"], "A"),
        ("1e5", ["b.png"], "B"),  # may well be an id
        ("bell\x07", ["c.png"], "C"),
        ("p", ["d.png"], "N/A"),
        ("q", ["e.png"], "N/A"),
        ("r", ["f.png"], "none"),  # alone: nobody is made its sibling
        ("s", [f"many-{k}.png" for k in range(51)], "S"),
        ("t", [f"some-{k}.png" for k in range(50)], "T"),
    ]
    found = by_kind(examine(catalog_of(rows), None, None, Ledger()))
    assert [(e.row, e.item) for e in found["spreadsheet-id"][0].examples] == [(1, "4.9E+12")]
    assert [e.row for e in found["control-character"][0].examples] == [3]
    assert found["nameless-family"][0].severity == "bad"
    assert [(e.row, e.note) for e in found["nameless-family"][0].examples] == [(4, "family N/A: 2 products")]
    assert [(e.row, e.note) for e in found["many-pictures"][0].examples] == [(7, "51 pictures")]


@pytest.mark.parametrize(("size", "rest", "large"), [(1001, 20000, True), (1000, 20000, False), (51, 400, True),
                                                     (50, 40, False), (51, 460, False)])  # fmt: skip
def test_a_family_is_large_by_itself_or_as_a_share(size: int, rest: int, large: bool) -> None:
    n = size + rest
    labels = np.concatenate([np.zeros(size, np.int64), 1 + np.arange(rest)])
    catalog = Catalog(
        product_ids=pa.array([f"p{k}" for k in range(n)]),
        families=pa.array([f"f{k}" for k in labels.tolist()]),
        labels=labels,
        image_paths=pa.array([f"{k}.png" for k in range(n)]),
        offsets=np.arange(n + 1),
        image_index=np.arange(n),
        root=Path("/nowhere"),
    )
    found = by_kind(examine(catalog, None, None, Ledger()))
    assert ("large-family" in found) == large
    if large:
        assert [e.note for e in found["large-family"][0].examples] == [f"family f0: {size:,} products"]
        assert found["large-family"][0].examples[0].row == -1, "nobody recorded the rows"


def test_every_kind_of_reason_in_the_ledger_is_said_known_or_not() -> None:
    ledger = Ledger()
    for row in range(1, 31):
        ledger.add("shop.csv", row, f"p{row}", "malformed row: 2 fields where 3 were expected")
    ledger.add("shop.csv", 40, "x.jpg", "outside the data root: ../x.jpg")
    ledger.add("shop.csv", 41, "y", "eaten by the dog: entirely")
    ledger.add("shop.csv", 42, "z.png", "unreadable image: empty file")
    found = by_kind(examine(catalog_of(SOUND), None, None, ledger, limit=5))
    assert found["malformed-row"][0].count == 30
    assert [e.row for e in found["malformed-row"][0].examples] == [1, 2, 3, 4, 5]
    assert found["outside-root"][0].examples[0].item == "x.jpg"
    assert found["eaten-by-the-dog"][0].severity == "bad"
    assert "eaten by the dog" in found["eaten-by-the-dog"][0].sentence
    assert found["unreadable"][0].count == 1
    with_pixels = by_kind(examine(catalog_of(SOUND), None, facts(16), ledger))
    assert "unreadable" not in with_pixels, "what was found of the files says it, once"


@pytest.mark.parametrize(
    ("rows", "readable", "dedup", "train"),
    [
        (SOUND, None, True, True),
        (SOUND, np.zeros(16, bool), False, False),
        (SOUND, np.arange(16) < 7, False, False),  # more is lost than is left: it looks in the wrong folder
        ([(row[0], row[1], "F") for row in SOUND], None, False, False),
        ([(row[0], row[1][:1], row[0]) for row in SOUND], None, True, False),
        (SOUND[:6], None, True, False),  # two families cannot make three splits
        ([("a", ["x.png"], "F"), ("b", ["y.png"], "G")], None, True, False),
        ([], None, False, False),
    ],
)  # fmt: skip
def test_what_it_can_be_used_for(rows: list, readable: np.ndarray | None, dedup: bool, train: bool) -> None:
    catalog = catalog_of(rows)
    pixels = None if readable is None else facts(len(readable), readable=readable)
    health = examine(catalog, None, pixels, Ledger())
    assert (health.can_dedup, health.can_train) == (dedup, train)
    assert (health.worst == "broken") == (not dedup)
    assert ("cannot-train" in by_kind(health)) == (not train)
    json.dumps(health.to_dict(), allow_nan=False)


def test_exact_copies_are_no_second_view() -> None:
    rows = [(f"p{k}", [f"{k}a.png", f"{k}b.png"], f"F{k}") for k in range(4)]
    assert examine(catalog_of(rows), None, facts(8), Ledger()).can_train
    copies = facts(8, digests=np.array([f"d{k // 2}" for k in range(8)]))
    assert not examine(catalog_of(rows), None, copies, Ledger()).can_train


def test_findings_are_sorted_and_plain() -> None:
    ledger = Ledger()
    ledger.add("s", 1, "a", "no family")
    rows = [*SOUND, ("odd\x07", ["1-0.png"], "X")]
    health = examine(catalog_of(rows), None, facts(16, readable=np.arange(16) < 3), ledger)
    ranks = [SEVERITIES.index(f.severity) for f in health.findings]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2, 3}
    plain = json.loads(json.dumps(health.to_dict(), allow_nan=False))
    assert plain["worst"] == "broken"
    assert plain["findings"][0]["kind"] == "cannot-dedup"
    assert plain["counts"]["products"] == 13


def test_pixel_facts_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match="detail has 3 rows, the catalogue has 16 pictures"):
        examine(catalog_of(SOUND), None, facts(16, detail=np.zeros(3, np.float32)), Ledger())


def test_memory_stays_with_arrays_and_does_not_grow_by_objects() -> None:
    """300,000 products: some tens of bytes of working memory each, where a Python object a row takes hundreds."""
    n = 300_000
    catalog = Catalog(
        product_ids=pa.array(np.arange(n)).cast(pa.string()),
        families=pa.array(np.arange(n) // 5).cast(pa.string()),
        labels=np.arange(n) // 5,
        image_paths=pa.array(np.arange(n)).cast(pa.string()),
        offsets=np.arange(n + 1),
        image_index=np.arange(n),
        root=Path("/nowhere"),
    )
    bits = np.random.default_rng(0).integers(0, 256, (n, 16), dtype=np.uint8)
    pixels = facts(n, digests=bits, detail=np.full(n, 0.2, np.float32), dhash=bits[:, :8], phash=bits[:, 8:])
    tracemalloc.start()
    health = examine(catalog, None, pixels, Ledger())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert health.counts["different picture files"] == n
    assert peak < 400 * n
