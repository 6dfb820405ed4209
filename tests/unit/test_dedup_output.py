"""What is written: sorted, symmetric, whole or not at all. The oracle is json.dumps of a dict made by loops."""

import csv
import dataclasses
import errno
import io
import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from dedup_helpers import make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup import listing, output
from siamdedup.dedup.reading import (
    read_duplicates_csv,
    read_duplicates_json,
    read_duplicates_jsonl,
    validate_duplicates,
)
from siamdedup.dedup.tables import write_groups_parquet, write_pairs_parquet
from siamdedup.errors import SiamdedupError
from siamdedup.types import DuplicateGroups

ODD = [
    'q"uote',
    "back\\slash",
    "new\nline",
    "日本",
    "é",
    "z",
    "😀",
    "\u2028",
    "",
    "a, b",
    "\x00",
    "A",
    "10",
    "9",
]
ODD += [
    "\x7f",
    "\ufeff",
    "\r",
    "\r\n",
    "a\x00",
    "a",
    "=1+1",
    "0012",
    " lead",
    "tail ",
    "NULL",
    '"',
    '""',
    "\uffff",
]
ODD += [chr(i) + "x" for i in range(32)] + ["long" * 50_000, "long" * 50_000 + "é"]

ids_of_any_kind = st.lists(
    st.one_of(st.text(max_size=5), st.sampled_from(ODD[:-2]), st.text('a"\\,\n\r\x00', max_size=20)),
    min_size=2,
    max_size=15,
    unique=True,
)


def mapping(ids, edges, include_empty):
    found = {i: [] for i in sorted(ids)}
    for a, b, _ in edges:
        found[ids[a]].append(ids[b])
        found[ids[b]].append(ids[a])
    return {k: sorted(v) for k, v in found.items() if v or include_empty}


def json_bytes(wanted):
    lines = [
        f"  {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
        for k, v in wanted.items()
    ]
    return ("{" + "".join(("\n" if i == 0 else ",\n") + line for i, line in enumerate(lines))).encode() + (
        b"\n}\n" if lines else b"}\n"
    )


def jsonl_bytes(wanted):
    rows = ({"productId": k, "duplicates": v} for k, v in wanted.items())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes(wanted):
    def field(text):
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in '",\r\n') else text

    rows = [("productId", "duplicateId"), *((k, other) for k, v in wanted.items() for other in v)]
    return "".join(f"{field(a)},{field(b)}\n" for a, b in rows).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@settings(max_examples=60, deadline=None)
@given(
    ids=ids_of_any_kind,
    seed=st.integers(0, 10**6),
    include_empty=st.booleans(),
    entries=st.integers(1, 9),
    room=st.integers(1, 2000),
    large=st.booleans(),
)
def test_every_format_equals_the_naive_text(folder, ids, seed, include_empty, entries, room, large):
    rng, n = np.random.default_rng(seed), len(ids)
    edges = [(a, b, 0.5) for a in range(n) for b in range(a + 1, n) if rng.random() < 0.3]
    wanted = mapping(ids, edges, include_empty)
    catalog = make_catalog(range(n), ids=ids)
    if large:  # and a view that does not begin at the first string
        column = pa.array(["before", *ids], pa.large_string())[1:]
        catalog = dataclasses.replace(catalog, product_ids=column)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_ENTRIES", entries)
        patch.setattr(listing, "_SCANS", 100)
        patch.setattr(listing, "_PAIRS", entries)
        patch.setattr(output, "_ROOM", room)
        paths = output.write_duplicates(folder, catalog, make_pairs(edges), include_empty=include_empty)
    assert list(paths) == list(output.FORMATS)
    assert paths["json"].read_bytes() == json_bytes(wanted)
    assert paths["jsonl"].read_bytes() == jsonl_bytes(wanted)
    assert paths["csv"].read_bytes() == csv_bytes(wanted)
    with_partner = {k: v for k, v in wanted.items() if v}
    for name, read, held in (
        ("json", read_duplicates_json, wanted),
        ("jsonl", read_duplicates_jsonl, wanted),
        ("csv", read_duplicates_csv, with_partner),
    ):
        assert read(paths[name]) == held
        assert validate_duplicates(paths[name]) == len(held)
    rows = list(csv.reader(io.StringIO(paths["csv"].read_bytes().decode(), newline=""), strict=True))[1:]
    assert [tuple(row) for row in rows] == [(k, other) for k, v in wanted.items() for other in v]


def test_odd_ids_in_a_chain_and_a_hot_product(tmp_path):
    n = len(ODD)
    edges = [(i, i + 1, 0.1) for i in range(n - 1)] + [(0, i, 0.2) for i in range(2, n)]
    catalog, wanted = make_catalog(range(n), ids=ODD), mapping(ODD, edges, False)
    paths = output.write_duplicates(tmp_path, catalog, make_pairs(edges))
    assert paths["json"].read_bytes() == json_bytes(wanted)
    assert paths["jsonl"].read_bytes() == jsonl_bytes(wanted)
    assert paths["csv"].read_bytes() == csv_bytes(wanted)
    limit = csv.field_size_limit()
    assert read_duplicates_csv(paths["csv"]) == wanted
    assert csv.field_size_limit() == limit


def test_many_products_in_any_order_of_rows(tmp_path):
    """More than one block of everything, and the same bytes whichever row a product is in."""
    rng, n = np.random.default_rng(1), 3000
    ids = [f"SKU-{i}" for i in rng.integers(0, 10**9, n)]
    assert len(set(ids)) == n
    key = np.unique(rng.integers(0, n, 20_000) * n + rng.integers(0, n, 20_000))
    edges = [(int(a), int(b), 0.5) for a, b in zip(*np.divmod(key, n), strict=True) if a < b]
    wanted = json_bytes(mapping(ids, edges, True))
    for turn in (np.arange(n), rng.permutation(n)):
        place = np.argsort(turn)
        catalog = make_catalog(range(n), ids=[ids[i] for i in turn])
        pairs = make_pairs([(int(place[a]), int(place[b]), d) for a, b, d in edges])
        for column in (pairs.left, pairs.right):
            column.flags.writeable = False  # as a memory map may be
        output.write_duplicates_json(tmp_path / "d.json", catalog, pairs, include_empty=True)
        assert (tmp_path / "d.json").read_bytes() == wanted


def test_nothing_to_write(tmp_path):
    nothing = make_pairs([])
    for ids, include_empty in (([], True), ([], False), (["a", "b"], False), (["a", "b"], True)):
        paths = output.write_duplicates(
            tmp_path, make_catalog(ids, ids=ids), nothing, include_empty=include_empty
        )
        wanted = {i: [] for i in ids} if include_empty else {}
        assert paths["json"].read_bytes() == json_bytes(wanted)
        assert paths["jsonl"].read_bytes() == jsonl_bytes(wanted)
        assert paths["csv"].read_bytes() == csv_bytes({})
        assert [validate_duplicates(p) for p in paths.values()] == [len(wanted), len(wanted), 0]


def test_only_the_formats_asked_for(tmp_path):
    catalog, pairs = make_catalog("ab"), make_pairs([(0, 1, 0.0)])
    assert list(output.write_duplicates(tmp_path / "new", catalog, pairs, ("csv",))) == ["csv"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["duplicates.csv"]
    with pytest.raises(ValueError, match="formats"):
        output.write_duplicates(tmp_path, catalog, pairs, ("xml",))


@pytest.mark.parametrize(
    ("left", "right", "says"),
    [([1], [0], "left < right"), ([0], [0], "left < right"), ([0], [2], "n_products"), ([-1], [1], "left"),
     ([0, 0], [1, 1], "twice")],
)  # fmt: skip
def test_impossible_pairs_are_refused(tmp_path, left, right, says):
    pairs = dataclasses.replace(
        make_pairs([]),
        left=np.array(left, np.int64),
        right=np.array(right, np.int64),
        distance=np.zeros(len(left)),
    )
    with pytest.raises(ValueError, match=says):
        output.write_duplicates_json(tmp_path / "d.json", make_catalog("ab"), pairs)
    assert not list(tmp_path.iterdir())


def writers(catalog, pairs):
    groups = DuplicateGroups(np.zeros(2, np.int64), 1, 2, 0)
    return {
        "duplicates.json": lambda path: output.write_duplicates(path.parent, catalog, pairs, ("json",)),
        "duplicates.jsonl": lambda path: output.write_duplicates(path.parent, catalog, pairs, ("jsonl",)),
        "duplicates.csv": lambda path: output.write_duplicates(path.parent, catalog, pairs, ("csv",)),
        "p.parquet": lambda path: write_pairs_parquet(path, catalog, pairs),
        "g.parquet": lambda path: write_groups_parquet(path, catalog, groups),
    }


class FullDisk(io.BytesIO):
    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, data):
        self.room -= len(bytes(data))
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(bytes(data))


@pytest.mark.parametrize("room", [0, 20])
@pytest.mark.parametrize("name", writers(None, None))
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, name, room):
    """A device that takes ``room`` bytes and no more, behind the real atomic_write."""
    path = tmp_path / name
    write = writers(make_catalog("ab"), make_pairs([(0, 1, 0.0)]))[name]
    write(path)
    before, real = path.read_bytes(), output.atomic_write

    @contextmanager
    def on_full_disk(path):
        with real(path):
            yield FullDisk(room)

    monkeypatch.setattr(output, "atomic_write", on_full_disk)
    with pytest.raises(SiamdedupError, match="disk is full") as caught:
        write(path)
    assert caught.value.where == str(path)
    assert "free space" in caught.value.remedy
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", writers(None, None))
def test_a_folder_that_is_none(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(SiamdedupError, match="cannot be written"):
        writers(make_catalog("ab"), make_pairs([(0, 1, 0.0)]))[name](tmp_path / "file" / name)


def test_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "d.json"
    output.write_duplicates_json(path, make_catalog("ab"), make_pairs([(0, 1, 0.0)]))
    wanted = read_duplicates_json(path)
    code = (
        "import os, signal, sys\n"
        "from siamdedup.dedup.output import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'{' * 100_000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert read_duplicates_json(path) == wanted
    assert len(list(tmp_path.glob(".d.json.*.tmp"))) == 1  # hidden, and never mistaken for a result
    output.write_duplicates_json(path, make_catalog("abc"), make_pairs([(0, 2, 0.0)]))
    assert read_duplicates_json(path) == {"p0": ["p2"], "p2": ["p0"]}
