"""Pairs and groups as Parquet, and the lookup of ids behind their reader."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dedup_helpers import make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup import tables
from siamdedup.dedup.groups import duplicate_groups
from siamdedup.dedup.ids import IdLookup, text_buffers
from siamdedup.errors import SiamdedupError
from siamdedup.types import STAGES

COLUMNS = ("left", "right", "distance", "left_image", "right_image", "stage")
IDS = [*'ab"', "d", "e"]


def five():
    return make_catalog(["f", "g", "h", "i", "j"], [[0], [1], [2], [3], [4]], ids=IDS)


def assert_same(got, wanted):
    for name in COLUMNS:
        a, b = getattr(got, name), getattr(wanted, name)
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()


def test_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS", 2)
    catalog, path = five(), tmp_path / "p.parquet"
    pairs = make_pairs([(0, 2, 0.125), (0, 4, 0.25), (2, 4, 0.5), (1, 3, 0.0)], stage="same image")
    tables.write_pairs_parquet(path, catalog, pairs)
    table = pq.read_table(path)
    assert table.schema.equals(tables.PAIRS_SCHEMA)
    assert [pq.ParquetFile(path).metadata.row_group(i).num_rows for i in range(2)] == [2, 2]
    assert table.slice(0, 1).to_pylist() == [
        {
            "left_id": "a",
            "right_id": '"',
            "distance": 0.125,
            "stage": "same image",
            "left_image": "0.jpg",
            "right_image": "2.jpg",
            "probability": None,
        }
    ]
    assert_same(tables.read_pairs_parquet(path, catalog), pairs)
    tables.write_pairs_parquet(path, catalog, pairs, np.array([0.5, 1, 0, 0.25], np.float32))
    assert pq.read_table(path)["probability"].to_pylist() == [0.5, 1, 0, 0.25]
    wide = dataclasses.replace(catalog, product_ids=catalog.product_ids.cast(pa.large_string()))
    tables.write_pairs_parquet(path, wide, pairs)
    assert pq.read_table(path).schema.equals(tables.PAIRS_SCHEMA)
    assert_same(tables.read_pairs_parquet(path, wide), pairs)


def test_no_pairs(tmp_path):
    path, catalog = tmp_path / "p.parquet", make_catalog([])
    tables.write_pairs_parquet(path, catalog, make_pairs([]))
    assert pq.read_table(path).schema.equals(tables.PAIRS_SCHEMA)
    assert_same(tables.read_pairs_parquet(path, catalog), make_pairs([]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 7))
def test_rows_of_a_catalogue_in_another_order(tmp_path_factory, seed, rows):
    """Read as rows of a catalogue whose rows are turned: the naive mapping of each pair, sorted."""
    rng, n = np.random.default_rng(seed), 9
    edges = [
        (a, b, float(rng.integers(0, 8)) / 8) for a in range(n) for b in range(a + 1, n) if rng.random() < 0.4
    ]
    ids, turn = [f"{i}é\x00"[: 1 + i % 3] + str(i) for i in range(n)], rng.permutation(n)
    place, path = np.argsort(turn), tmp_path_factory.getbasetemp() / "turned.parquet"
    old, new = make_catalog(range(n), ids=ids), make_catalog(range(n), ids=[ids[i] for i in turn])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_ROWS", rows)
        tables.write_pairs_parquet(path, old, make_pairs(edges))
        got = tables.read_pairs_parquet(path, new)
    wanted = []
    for a, b, d in edges:  # the picture paths are those of the rows, in both catalogues
        one, two = (int(place[a]), a), (int(place[b]), b)
        (left, left_image), (right, right_image) = min(one, two), max(one, two)
        wanted.append((left, right, d, left_image, right_image, STAGES.index("embedding")))
    assert list(zip(*(getattr(got, name).tolist() for name in COLUMNS), strict=True)) == sorted(wanted)


def rewritten(path, **changes):
    table = pq.read_table(path)
    for name, values in changes.items():
        at = table.schema.get_field_index(name)
        column = pa.array(
            values, None if values and isinstance(values[0], int) else table.schema.field(at).type
        )
        table = table.set_column(at, pa.field(name, column.type), column)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stage": ["embedding", "oracle"]}, "row 2 is 'oracle'.*same image, same bytes"),
        ({"stage": ["embedding", None]}, "row 2 is None"),
        ({"left_id": ["a", "nobody"]}, "left_id of row 2 is not in the catalogue: 'nobody'"),
        ({"right_image": ["9.jpg", "2.jpg"]}, "right_image of row 1 is not in the catalogue: '9.jpg'"),
        ({"right_id": ["b", None]}, "empty cell"),
        ({"left_id": [1, 2]}, "left_id is int64, not string"),
        ({"right_id": ["a", "b"], "left_id": ["b", "a"]}, "pair twice"),
        ({"right_id": ["b", "a"]}, "itself"),
    ],
)
def test_reader_names_what_is_wrong(tmp_path, changes, says):
    path, catalog = tmp_path / "p.parquet", five()
    tables.write_pairs_parquet(path, catalog, make_pairs([(0, 1, 0.5), (0, 2, 0.5)]))
    rewritten(path, **changes)
    with pytest.raises(SiamdedupError, match=says) as caught:
        tables.read_pairs_parquet(path, catalog)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_reader_refuses_other_files(tmp_path):
    path, catalog = tmp_path / "bad.parquet", five()
    path.write_bytes(b"no table")
    with pytest.raises(SiamdedupError, match="cannot be read"):
        tables.read_pairs_parquet(path, catalog)
    with pytest.raises(SiamdedupError, match="cannot be read"):
        tables.read_pairs_parquet(tmp_path / "absent.parquet", catalog)
    pq.write_table(pa.table({"left_id": ["a"]}), path)
    with pytest.raises(SiamdedupError, match="right_id is missing"):
        tables.read_pairs_parquet(path, catalog)
    tables.write_pairs_parquet(path, catalog, make_pairs([(0, 1, 0.5)]))
    path.write_bytes(path.read_bytes()[:-20])  # cut short
    with pytest.raises(SiamdedupError, match="cannot be read"):
        tables.read_pairs_parquet(path, catalog)


def test_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS", 2)
    catalog = five()
    pairs = make_pairs([(0, 2, 0.125), (0, 4, 0.25), (2, 4, 0.5), (1, 3, 0.0)])
    tables.write_groups_parquet(tmp_path / "g.parquet", catalog, duplicate_groups(catalog, pairs))
    table = pq.read_table(tmp_path / "g.parquet")
    assert table.schema.equals(tables.GROUPS_SCHEMA)
    assert table.to_pydict() == {
        "group": [0, 0, 0, 1, 1],
        "product_id": ["a", '"', "e", "b", "d"],
        "family": ["f", "h", "j", "g", "i"],
        "is_representative": [False, True, False, True, False],
    }


def test_same_results_same_bytes(tmp_path):
    catalog, pairs = make_catalog("abc"), make_pairs([(0, 1, 0.0), (1, 2, 0.1)])
    for name in ("one", "two"):
        tables.write_pairs_parquet(tmp_path / name, catalog, pairs)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@settings(max_examples=100, deadline=None)
@given(
    known=st.lists(st.text("ab\x00é", max_size=6), max_size=300, unique=True),
    sought=st.lists(st.text("ab\x00é", max_size=6), max_size=300),
    large=st.booleans(),
)
def test_lookup_equals_arrow(known, sought, large):
    kind = pa.large_string() if large else pa.string()
    held = pa.array(["first", *known], kind)[1:]  # a view that does not begin at the first string
    asked = pa.array(["", *sought], kind)[1:]
    wanted = pc.fill_null(pc.index_in(asked, value_set=held), -1).to_pylist()
    assert IdLookup(held).rows(asked).tolist() == wanted


def test_lookup_among_many():
    ids = pa.array([f"SKU-{i:07d}" for i in range(50_000)])
    order = np.random.default_rng(0).permutation(50_000)
    assert (IdLookup(ids).rows(ids.take(pa.array(order))) == order).all()


def test_lookup_wants_strings():
    for wrong in (pa.array([1]), pa.array(["a", None])):
        with pytest.raises(ValueError, match="strings without nulls"):
            text_buffers(wrong)
