"""Pictures under the doctor's eye: lost, tiny, blank, copied, and shared by families that are not one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import draw
from health_helpers import by_kind, catalog_of, facts, look
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siamdedup.catalog.ledger import Ledger
from siamdedup.report.health import examine
from siamdedup.report.health_facts import Shown


def test_pictures_shared_across_families_and_placeholders() -> None:
    rows = [(f"p{k}", ["none.png", f"{k}.png"], f"F{k}") for k in range(6)]
    rows += [("a", ["x.png"], "A"), ("b", ["y.png", "x.png"], "B"), ("c", ["x.png"], "B")]
    found = by_kind(examine(catalog_of(rows), None, None, Ledger()))
    assert found["placeholder"][0].count == 1
    assert [e.row for e in found["placeholder"][0].examples] == [1, 2, 3, 4, 5, 6]
    assert [(e.row, e.item) for e in found["shared-name"][0].examples] == [(7, "x.png"), (8, "x.png")]
    assert len({e.group for e in found["shared-name"][0].examples}) == 1
    fewer = by_kind(examine(catalog_of(rows), None, None, Ledger(), max_families=6))
    assert "placeholder" not in fewer
    assert fewer["shared-name"][0].count == 2


def test_files_that_are_one_by_bytes_or_by_look() -> None:
    rows = [(f"p{k}", [f"{k}.png"], f"F{k // 2}") for k in range(12)]
    digests = np.array([f"d{k}" for k in range(12)])
    digests[[0, 5]] = "same"  # across families
    digests[[6, 7]] = "copy"  # within one
    digests[[3, 9]] = ""  # two that cannot be read are not one
    readable = digests != ""
    dhash = np.arange(12, dtype=np.uint8).repeat(8).reshape(12, 8)
    phash, pdq = dhash.copy(), dhash.repeat(4, 1)
    dhash[[1, 8]] = phash[[1, 8]] = 200
    dhash[[2, 10]] = 201  # dHash alone says little
    pdq[[4, 11]] = 202
    detail = np.full(12, 0.2, np.float32)
    whole = facts(12, readable=readable, digests=digests, detail=detail, dhash=dhash, phash=phash, pdq=pdq)
    found = by_kind(examine(catalog_of(rows), None, whole, Ledger()))
    assert [e.row for e in found["shared-bytes"][0].examples] == [1, 6]
    assert [e.row for e in found["copies"][0].examples] == [7, 8]
    groups: dict[int, set[int]] = {}
    for e in found["shared-look"][0].examples:
        groups.setdefault(e.group, set()).add(e.row)
    assert sorted(map(sorted, groups.values())) == [[2, 9], [5, 12]]
    plain = by_kind(examine(catalog_of(rows), None, replace(whole, detail=detail / 10), Ledger()))
    assert "shared-look" not in plain, "without detail a fingerprint says nothing"
    as_bytes = np.frombuffer(b"".join(d.ljust(16, "-").encode() for d in digests), np.uint8).reshape(12, 16)
    again = examine(catalog_of(rows), None, replace(whole, digests=as_bytes), Ledger())
    assert again == examine(catalog_of(rows), None, whole, Ledger())


def test_unreadable_tiny_long_and_blank_pictures(tmp_path: Path) -> None:
    names = [
        "good.png",
        "gone.png",
        "empty.png",
        "html.png",
        "tiny.png",
        "strip.png",
        "blank.png",
        "edge.png",
    ]
    for name, shape in (("good", (96, 96)), ("tiny", (31, 200)), ("strip", (33, 300)), ("edge", (32, 256))):
        Image.fromarray(np.asarray(Image.fromarray(draw(1, 0)).resize(shape[::-1]))).save(
            tmp_path / f"{name}.png"
        )
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "html.png").write_text("<html>")
    rows = [(f"p{k}", [name], f"F{k}") for k, name in enumerate(names)]
    catalog = catalog_of(rows, tmp_path)
    health = examine(catalog, None, look(catalog), Ledger())
    found = by_kind(health)
    for kind, name, severity in (
        ("missing-file", "gone.png", "bad"), ("empty-file", "empty.png", "bad"), ("unreadable", "html.png", "bad"),
        ("tiny-picture", "tiny.png", "odd"), ("long-picture", "strip.png", "odd"), ("blank-picture", "blank.png", "odd"),
    ):  # fmt: skip
        assert [(e.item, e.row) for f in found[kind] for e in f.examples] == [
            (name, 1 + names.index(name))
        ], kind
        assert found[kind][0].severity == severity
        assert found[kind][0].count == 1
    assert [e.row for e in found["no-useful-picture"][0].examples] == [2, 3, 4, 7]
    assert "200 x 31 pixels" in found["tiny-picture"][0].examples[0].note
    assert health.histograms["Longest side of a picture (pixels)"] == {
        "1–31": 0,
        "32–99": 2,
        "100–299": 2,
        "300–599": 1,
    }
    assert health.counts["readable pictures"] == 5
    assert not health.can_train, "no family has two different pictures"
    assert health.can_dedup


def test_pictures_behind_an_address_are_not_fetched_rather_than_missing() -> None:
    names = ["http://s/a.jpg", "HTTPS://s/b.jpg", "c.jpg", "http://s/d.jpg", "e.jpg"]
    reasons = ["not fetched: status 404", "no such file", "no such file", "", "odd: beyond words"]
    rows = [(f"p{k}", [name], f"F{k}") for k, name in enumerate(names)]
    pixels = facts(5, readable=np.array([not reason for reason in reasons]), reasons=np.array(reasons))
    health = examine(catalog_of(rows), None, pixels, Ledger())
    found = by_kind(health)
    assert [e.row for e in found["not-fetched"][0].examples] == [1, 2]
    assert [e.row for e in found["missing-file"][0].examples] == [3]
    assert [(f.sentence, f.count) for f in found["unreadable"]] == [("Pictures that cannot be read: odd", 1)]
    assert health.counts["pictures at an http(s) address"] == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_families_that_show_a_picture_are_counted_as_a_loop_counts_them(data: st.DataObject) -> None:
    n, images = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 8))
    rows = [
        (f"p{k}", data.draw(st.lists(st.sampled_from([f"{i}" for i in range(images)]), min_size=1, unique=True)),
         f"F{data.draw(st.integers(0, 4))}")
        for k in range(n)
    ]  # fmt: skip
    catalog = catalog_of(rows)
    digests = np.array([data.draw(st.sampled_from("abc")) for _ in range(catalog.n_images)])
    readable = np.array([data.draw(st.booleans()) for _ in range(catalog.n_images)])
    shown = Shown.of(catalog, facts(catalog.n_images, readable=readable, digests=digests), 2)
    names = catalog.image_paths.to_pylist()
    key = {name: digests[k] if readable[k] else name for k, name in enumerate(names)}
    for k, name in enumerate(names):
        families = {row[2] for row in rows if name in row[1]}
        copies = {row[2] for row in rows if key[name] in {key[other] for other in row[1]}}
        assert shown.by_name[k] == len(families)
        assert shown.by_bytes[k] == len(copies)
        assert shown.hot[k] == (len(copies) > 2)
        assert rows[shown.first[k]] == next(row for row in rows if name in row[1])
        assert shown.products[k] == sum(name in row[1] for row in rows)
