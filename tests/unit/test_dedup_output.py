"""What is written: sorted, symmetric, whole or not at all."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from dedup_helpers import make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup import output
from siamdedup.dedup.groups import duplicate_groups
from siamdedup.errors import SiamdedupError

ODD = ['q"uote', "back\\slash", "new\nline", "日本", "é", "z", "😀", "\u2028", "", "a, b", "\x00", "A"]


def write(path, catalog, pairs, **options):
    output.write_duplicates_json(path, catalog, pairs, **options)
    return json.loads(path.read_bytes())


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.text(max_size=5), min_size=2, max_size=15, unique=True),
    seed=st.integers(0, 10**6),
    include_empty=st.booleans(),
    rows=st.integers(1, 5),
)
def test_json_is_symmetric_sorted_and_complete(tmp_path_factory, ids, seed, include_empty, rows):
    rng, n = np.random.default_rng(seed), len(ids)
    edges = [(a, b, 0.5) for a in range(n) for b in range(a + 1, n) if rng.random() < 0.3]
    wanted = {i: [] for i in sorted(ids)}
    for a, b, _ in edges:
        wanted[ids[a]].append(ids[b])
        wanted[ids[b]].append(ids[a])
    wanted = {k: sorted(v) for k, v in wanted.items() if v or include_empty}
    path = tmp_path_factory.mktemp("json") / "d.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "_ROWS", rows)
        got = write(path, make_catalog(range(n), ids=ids), make_pairs(edges), include_empty=include_empty)
    assert got == wanted
    assert list(got) == list(wanted)
    assert output.read_duplicates_json(path) == wanted


def test_odd_ids(tmp_path):
    catalog = make_catalog(range(len(ODD)), ids=ODD)
    got = write(tmp_path / "d.json", catalog, make_pairs([(i, i + 1, 0.1) for i in range(len(ODD) - 1)]))
    assert list(got) == sorted(ODD)
    assert got["z"] == ["é", "😀"]
    assert "日本" in (tmp_path / "d.json").read_text(encoding="utf-8")


def test_schema_holds_by_hand(tmp_path):
    schema = output.duplicates_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert json.loads(json.dumps(schema)) == schema
    assert schema["type"] == "object"
    assert schema["additionalProperties"]["items"] == {"type": "string"}
    got = write(
        tmp_path / "d.json", make_catalog("abc"), make_pairs([(0, 1, 0), (1, 2, 0)]), include_empty=True
    )
    for ids in got.values():
        assert isinstance(ids, list)
        assert len(set(ids)) == len(ids)
        assert all(isinstance(i, str) for i in ids)


def test_nothing_to_write(tmp_path):
    catalog = make_catalog([])
    assert write(tmp_path / "d.json", catalog, make_pairs([]), include_empty=True) == {}
    assert write(tmp_path / "d.json", make_catalog("ab"), make_pairs([])) == {}
    output.write_pairs_parquet(tmp_path / "p.parquet", catalog, make_pairs([]))
    assert pq.read_table(tmp_path / "p.parquet").schema.names == output.PAIRS_SCHEMA.names


def test_reader_refuses_other_files(tmp_path):
    path = tmp_path / "d.json"
    for text in ("[]", '{"a": "b"}', '{"a": [1]}', '{"a": ['):
        path.write_text(text)
        with pytest.raises(SiamdedupError, match=r"d\.json"):
            output.read_duplicates_json(path)
    with pytest.raises(SiamdedupError):
        output.read_duplicates_json(tmp_path / "absent.json")


def test_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "_ROWS", 2)
    catalog = make_catalog(["f", "g", "h", "i", "j"], [[0], [1], [2], [3], [4]], ids=[*'ab"', "d", "e"])
    pairs = make_pairs([(0, 2, 0.125), (0, 4, 0.25), (2, 4, 0.5), (1, 3, 0.0)], stage="same image")
    output.write_pairs_parquet(tmp_path / "p.parquet", catalog, pairs)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.equals(output.PAIRS_SCHEMA)
    assert table.num_rows == 4
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
    output.write_pairs_parquet(
        tmp_path / "p.parquet", catalog, pairs, np.array([0.5, 1, 0, 0.25], np.float32)
    )
    assert pq.read_table(tmp_path / "p.parquet")["probability"].to_pylist() == [0.5, 1, 0, 0.25]
    again = output.read_pairs_parquet(tmp_path / "p.parquet", catalog)
    for name in ("left", "right", "distance", "left_image", "right_image", "stage"):
        assert getattr(again, name).tolist() == getattr(pairs, name).tolist()
    with pytest.raises(SiamdedupError, match="not in the catalogue"):
        output.read_pairs_parquet(tmp_path / "p.parquet", make_catalog("ab"))
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(SiamdedupError, match="cannot be read"):
        output.read_pairs_parquet(tmp_path / "bad.parquet", catalog)
    output.write_groups_parquet(tmp_path / "g.parquet", catalog, duplicate_groups(catalog, pairs))
    table = pq.read_table(tmp_path / "g.parquet")
    assert table.schema.equals(output.GROUPS_SCHEMA)
    assert table.to_pydict() == {
        "group": [0, 0, 0, 1, 1],
        "product_id": ["a", '"', "e", "b", "d"],
        "family": ["f", "h", "j", "g", "i"],
        "is_representative": [False, True, False, True, False],
    }


def test_failed_writer_leaves_the_old_file(tmp_path, monkeypatch):
    path, catalog, pairs = tmp_path / "d.json", make_catalog("ab"), make_pairs([(0, 1, 0.0)])
    wanted = write(path, catalog, pairs)
    monkeypatch.setattr(output, "_lines", lambda *_: iter(["x", None]))
    with pytest.raises(AttributeError):
        output.write_duplicates_json(path, catalog, pairs)
    assert output.read_duplicates_json(path) == wanted
    assert [p.name for p in tmp_path.iterdir()] == ["d.json"]


def test_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "d.json"
    wanted = write(path, make_catalog("ab"), make_pairs([(0, 1, 0.0)]))
    code = (
        "import os, signal, sys\n"
        "from siamdedup.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'{' * 100_000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert output.read_duplicates_json(path) == wanted
    assert len(list(tmp_path.glob(".d.json.*.tmp"))) == 1  # hidden, and never mistaken for a result
    assert write(path, make_catalog("abc"), make_pairs([(0, 2, 0.0)])) == {"p0": ["p2"], "p2": ["p0"]}


def test_same_results_same_bytes(tmp_path):
    catalog, pairs = make_catalog("abc"), make_pairs([(0, 1, 0.0), (1, 2, 0.1)])
    for name in ("one", "two"):
        output.write_duplicates_json(tmp_path / name / "d.json", catalog, pairs)
        output.write_pairs_parquet(tmp_path / name / "p.parquet", catalog, pairs)
    for file in ("d.json", "p.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
