"""A stored catalogue is the one that was read, and a reading that was killed leaves nothing that is opened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.catalog import table
from siamdedup.catalog.building.store import (
    IntegerWriter,
    StringWriter,
    read_strings,
    source_key,
    working_folder,
)
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import catalog_hash, read_catalog, read_catalog_with_report, write_catalog
from siamdedup.errors import CatalogError
from siamdedup.types import Catalog

ROWS = [
    ("a", "x.jpg;http://h/é.jpg", "F"),
    ("b", "y.jpg", ""),
    ("a", "z.jpg", "G"),
    ("", "q.jpg", "F"),
    ("c", "", ""),
]


def same(left: Catalog, right: Catalog) -> bool:
    strings = all(
        getattr(left, name).to_pylist() == getattr(right, name).to_pylist()
        for name in ("product_ids", "families", "image_paths")
    )
    numbers = ("labels", "offsets", "image_index", "source_rows")
    return strings and all(np.array_equal(getattr(left, name), getattr(right, name)) for name in numbers)


def test_a_store_gives_the_same_catalogue_ledger_and_report(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "c.csv", ROWS)
    ledgers = [Ledger() for _ in range(3)]
    held, report = read_catalog_with_report(path, ledger=ledgers[0])
    stored, first = read_catalog_with_report(path, ledger=ledgers[1], store=tmp_path / "s")
    again, second = read_catalog_with_report(path, ledger=ledgers[2], store=tmp_path / "s", fetched=tmp_path)
    assert same(held, stored)
    assert same(held, again)
    assert report == first == second
    assert list(ledgers[0]) == list(ledgers[1]) == list(ledgers[2])
    assert len(ledgers[0]) == 3
    assert held.product_ids.type == pa.string()
    assert again.product_ids.type == pa.large_string()
    assert catalog_hash(held) == catalog_hash(again)
    assert again.fetched == tmp_path
    assert not again.labels.flags.writeable
    back = read_catalog(write_catalog(tmp_path / "d.csv", again), root=tmp_path)
    assert catalog_hash(back) == catalog_hash(held)


def test_a_stored_table_is_not_read_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = write_rows(tmp_path / "c.csv", ROWS), tmp_path / "s"
    calls = []
    real = table.build
    monkeypatch.setattr(table, "build", lambda *a, **k: calls.append(1) or real(*a, **k))
    for _ in range(2):
        read_catalog(path, store=store)
    assert len(calls) == 1
    read_catalog(path, store=store, allow_outside=True)
    read_catalog(path, store=store, columns={"separator": "|"})
    read_catalog(path, store=store, root=tmp_path.parent)
    assert len(calls) == 4
    write_rows(path, [*ROWS, ("new", "n.jpg", "F")])
    assert read_catalog(path, store=store).n_products == 3
    assert len(calls) == 5


def test_a_table_that_changes_while_it_is_read_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "c.csv", ROWS)
    real = table.build

    def build(*args: object, **options: object) -> object:
        found = real(*args, **options)
        write_rows(path, ROWS[:1])
        return found

    monkeypatch.setattr(table, "build", build)
    with pytest.raises(CatalogError, match="changed while it was read"):
        read_catalog(path, store=tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_a_reading_killed_halfway_is_ignored_and_removed_a_day_later(tmp_path: Path) -> None:
    path, store = write_rows(tmp_path / "c.csv", ROWS), tmp_path / "s"
    program = (
        "import os, signal, sys\nfrom siamdedup.catalog import table\n"
        "table.write_facts = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "table.read_catalog(sys.argv[1], store=sys.argv[2])\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path), str(store)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = store.iterdir()
    assert (left / "product_ids.bytes").exists()  # it was well under way
    assert same(read_catalog(path, store=store), read_catalog(path))
    assert left.exists()
    os.utime(left, (0, 0))
    read_catalog(path, store=store, allow_outside=True)
    assert not left.exists()


def test_the_second_of_two_processes_finds_what_the_first_stored(tmp_path: Path) -> None:
    with (
        working_folder(tmp_path, "key") as (one, publish_one),
        working_folder(tmp_path, "key") as (two, publish_two),
    ):
        (one / "who").write_text("one")
        (two / "who").write_text("two")
        assert publish_one() == publish_two() == tmp_path / "key"
    assert (tmp_path / "key/who").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_a_folder_counts_with_every_file_beneath_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1").write_text("1")
    before = source_key([str(tmp_path)], {})
    assert before == source_key([str(tmp_path)], {})
    assert before != source_key([str(tmp_path)], {"x": 1})
    (tmp_path / "a/b/2").write_text("2")
    assert before != source_key([str(tmp_path)], {})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=5), max_size=6), max_size=5))
def test_strings_come_back_as_they_were_appended(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("strings")
    with StringWriter(folder, "s") as out:
        for k, block in enumerate(blocks):
            padded = pa.array(["before", *block, "after"], pa.large_string() if k % 2 else pa.string())
            out.append(padded.slice(1, len(block)))
    expected = [text for block in blocks for text in block]
    for mapped in (True, False):
        assert read_strings(folder, "s", mapped=mapped).to_pylist() == expected


def test_integers_come_back_and_the_file_is_a_plain_npy(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-(2**60), 2**60, (1234, 2))
    with IntegerWriter(tmp_path / "i.npy", (2,)) as out:
        for start in range(0, 1234, 100):
            out.append(values[start : start + 100])
    assert np.array_equal(np.load(tmp_path / "i.npy", mmap_mode="r"), values)


def test_facts_are_strict_json(tmp_path: Path) -> None:
    read_catalog(write_rows(tmp_path / "c.csv", ROWS), store=tmp_path / "s")
    (folder,) = (tmp_path / "s").iterdir()
    assert json.loads((folder / "facts.json").read_text())["sources"] == [str(tmp_path / "c.csv")]
    assert not list(folder.glob("work-*"))
