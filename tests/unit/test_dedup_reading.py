"""Readers and the streaming check refuse whatever the writers do not write, and name the line."""

import json
import random

import pytest
from dedup_helpers import make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.output import duplicates_schema, write_duplicates, write_duplicates_json
from siamdedup.dedup.reading import (
    read_duplicates_csv,
    read_duplicates_json,
    read_duplicates_jsonl,
    validate_duplicates,
)
from siamdedup.errors import SiamdedupError

READERS = {"json": read_duplicates_json, "jsonl": read_duplicates_jsonl, "csv": read_duplicates_csv}


def text_of(name, records):
    """A file of these (productId, list) records, in their order, right or wrong."""
    dumps = [(json.dumps(k), json.dumps(v)) for k, v in records]
    if name == "json":
        return "{" + ",".join(f"\n  {k}: {v}" for k, v in dumps) + ("\n}\n" if records else "}\n")
    if name == "jsonl":
        return "".join(f'{{"productId": {k}, "duplicates": {v}}}\n' for k, v in dumps)
    return "productId,duplicateId\n" + "".join(f"{k},{other}\n" for k, v in records for other in v)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("records", "line", "says"),
    [
        ([("b", ["c"]), ("a", ["c"]), ("c", ["a", "b"])], 2, "comes after"),
        ([("a", ["b"]), ("a", ["c"]), ("b", ["a"])], 2, "twice|comes after"),
        ([("a", ["c", "b"]), ("b", ["a"]), ("c", ["a"])], 1, "in its list"),
        ([("a", ["b", "b"]), ("b", ["a"])], 1, "in its list"),
        ([("a", ["a", "b"]), ("b", ["a"])], 1, "own list"),
        ([("a", ["b", "c"]), ("b", ["a"])], 1, "'c' is in the list of 'a'"),
        ([("a", ["b"]), ("b", ["a", "c"])], 2, "'c' is in the list of 'b'"),
        ([("a", ["b"]), ("b", ["a"]), ("c", ["b"])], 3, "'b' is in the list of 'c'"),
    ],
)
def test_wrong_files_are_told_apart(tmp_path, name, records, line, says):
    path = tmp_path / f"d.{name}"
    path.write_text(text_of(name, records))
    if name == "csv":  # one line a pair: only which record it is must agree
        if records[0][0] == records[1][0]:
            pytest.skip("in CSV that is one record")
        line = sum(len(v) for _, v in records[: line - 1]) + 1
    with pytest.raises(SiamdedupError, match=says) as caught:
        validate_duplicates(path)
    assert caught.value.where == f"{path}, line {line + (name != 'jsonl')}"
    assert caught.value.remedy


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdé"), st.lists(st.sampled_from("abcdé"), max_size=4)), st.booleans()
)
def test_the_check_agrees_with_a_naive_one(tmp_path_factory, plain, tidy):
    if tidy:
        plain = {k: sorted(set(v) - {k}) for k, v in sorted(plain.items())}
    right = (
        list(plain) == sorted(plain)
        and all(v == sorted(set(v)) and k not in v for k, v in plain.items())
        and all(k in plain.get(other, []) for k, v in plain.items() for other in v)
    )
    for name in ("json", "jsonl"):
        path = tmp_path_factory.getbasetemp() / f"naive.{name}"
        path.write_text(text_of(name, list(plain.items())))
        if right:
            assert validate_duplicates(path) == len(plain)
        else:
            with pytest.raises(SiamdedupError):
                validate_duplicates(path)


def test_one_missing_entry_among_many_is_found(tmp_path):
    """A large symmetric file from which one entry is taken: the line of its reverse is named."""
    draw, n = random.Random(3), 400
    edges = [(a, b, 0.1) for a in range(n) for b in range(a + 1, n) if draw.random() < 0.1]
    write_duplicates(tmp_path, make_catalog(range(n)), make_pairs(edges), ("jsonl",))
    path = tmp_path / "duplicates.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[100])
    gone = record["duplicates"].pop(3)
    lines[100] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    where = next(i for i, line in enumerate(lines, 1) if json.loads(line)["productId"] == gone)
    with pytest.raises(
        SiamdedupError, match=f"line {where}: '{record['productId']}' is in the list of '{gone}'"
    ):
        validate_duplicates(path)


BROKEN = {
    "json": ["", "[]", "{", '{"a": "b"}', '{"a": [1]}', '{"a": [', '{"a": [], "a": []}', b'{"\xff": []}'],
    "jsonl": ["\n", "[]\n", '{"productId": "a"}\n', '{"productId": 1, "duplicates": []}\n',
              '{"productId": "a", "duplicates": ["b", 1]}\n', '{"productId": "a", "duplicates": []}',
              '{"productId": "\\ud800", "duplicates": []}\n', b"\xff\n", "[" * 100_000 + "\n",
              '{"productId": "a", "duplicates": [], "more": 1}\n'],
    "csv": ["", "a,b\n", "productId,duplicateId\na\n", "productId,duplicateId\na,b,c\n", "productId,duplicateId",
            'productId,duplicateId\n"a,b\n', 'productId,duplicateId\n"a"x,b\n', b"productId,duplicateId\n\xff,b\n",
            "productId,duplicateId\na,b"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BROKEN.items() for text in texts])
def test_readers_refuse_other_files(tmp_path, name, text):
    path = tmp_path / f"d.{name}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (READERS[name], validate_duplicates):
        with pytest.raises(SiamdedupError, match=rf"d\.{name}"):
            read(path)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('{\n  "a": []\n  "b": []\n}\n', 3, "comma"),
        ('{\n  "a": [],\n}\n', 3, "product is to follow"),
        ('{\n  "a": [],\n', 2, "cut short"),
        ('{\n  "a": []\n}\n{}\n', 4, "after the end"),
        ("{}\n\n", 2, "after the end"),
        ("{\n}\n", 2, "product is to follow"),
        ('{\n  "a": [], "b": []\n}\n', 2, "not one product"),
        ('{\n  "a": [\n  ]\n}\n', 2, "cannot be read"),
        ('{ "a": []}\n', 1, "one product a line"),
    ],
)
def test_json_is_checked_line_by_line(tmp_path, text, line, says):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(SiamdedupError, match=says) as caught:
        validate_duplicates(path)
    assert caught.value.where.endswith(f"line {line}")


def test_absent_and_unknown_files(tmp_path):
    for name, read in READERS.items():
        with pytest.raises(SiamdedupError, match="cannot be read"):
            read(tmp_path / f"absent.{name}")
        with pytest.raises(SiamdedupError, match="cannot be read"):
            validate_duplicates(tmp_path / f"absent.{name}")
    with pytest.raises(SiamdedupError, match="suffix"):
        validate_duplicates(tmp_path / "d.xml")


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_product_named_again_is_refused(tmp_path, name):
    path = tmp_path / f"d.{name}"
    path.write_text(text_of(name, [("a", ["b"]), ("b", ["a"]), ("a", ["c"])]))
    with pytest.raises(SiamdedupError, match=rf"line {3 if name == 'jsonl' else 4}.*again"):
        READERS[name](path)


def test_schema_holds(tmp_path):
    """Each rule of the schema looked up in it, and then judged by hand (jsonschema is no dependency)."""
    schema = duplicates_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert json.loads(json.dumps(schema)) == schema
    kinds = {"object": dict, "array": list, "string": str}

    def check(value, rules):
        assert isinstance(value, kinds[rules["type"]])
        known = {"$schema", "title", "description", "type", "additionalProperties", "items", "uniqueItems"}
        assert set(rules) <= known
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner, rules["additionalProperties" if isinstance(value, dict) else "items"])
        if rules.get("uniqueItems"):
            assert len(set(value)) == len(value)

    path = tmp_path / "d.json"
    pairs = make_pairs([(0, 1, 0), (1, 2, 0)])
    write_duplicates_json(path, make_catalog("abcd"), pairs, include_empty=True)
    check(json.loads(path.read_bytes()), schema)
    for wrong in ([], {"a": "b"}, {"a": [1]}, {"a": ["b", "b"]}):
        with pytest.raises((AssertionError, KeyError)):
            check(wrong, schema)
