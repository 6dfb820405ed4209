"""Verdict files: whatever the file's form, a pair has one verdict; what contradicts itself is unsure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamdedup.catalog.table import read_catalog
from siamdedup.catalog.verdicts import COLUMNS, read_verdicts, review_table, write_review_csv
from siamdedup.errors import CatalogError
from siamdedup.types import VERDICTS, Catalog, ReviewList

HEADER = "left_image,right_image,verdict\n"


def catalog_of(names: list[str]) -> Catalog:
    """One product and family per picture; picture k is row k."""
    n = len(names)
    return Catalog(
        pa.array([f"p{k}" for k in range(n)]), pa.array([f"F{k}" for k in range(n)]), np.arange(n),
        pa.array(names, pa.string()), np.arange(n + 1), np.arange(n), Path("/nowhere"),
    )  # fmt: skip


def review_of(pairs: list[tuple[int, int]], verdict: list[str] | None = None) -> ReviewList:
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    distance = np.linspace(0.01, 0.3, len(left)).astype(np.float32)
    said = np.array(verdict if verdict is not None else [""] * len(left), "<U9")
    return ReviewList(left, right, left, right, distance, np.arange(len(left)) + 1, said)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_pair_is_found_whichever_picture_comes_first(tmp_path: Path) -> None:
    catalog = catalog_of(["a", "b", "c", "d"])
    path = write(tmp_path / "v.csv", HEADER + "b,a,same\nc,d,Different\n a , c ,\nd,d,VARIANT \n")
    verdicts = read_verdicts([path])
    assert len(verdicts) == 3
    asked = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [0, 2], [0, 3], [3, 3]])
    found = verdicts.of(catalog, asked[:, 0], asked[:, 1])
    assert found.tolist() == ["same", "same", "different", "different", "", "", "variant"]
    assert verdicts.pairs(catalog, "same").tolist() == [[0, 1]]
    assert verdicts.pairs(catalog, "variant").tolist() == [[3, 3]]
    assert verdicts.pairs(catalog, "unsure").shape == (0, 2)
    assert verdicts.of(catalog, np.empty(0, np.int64), np.empty(0, np.int64)).shape == (0,)
    assert (verdicts.n_conflicts, verdicts.conflicts, verdicts.n_foreign(catalog)) == (0, (), 0)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_every_form_reads_the_same(tmp_path: Path, bom: bytes, mark: str) -> None:
    catalog = catalog_of(["bilder/größe.jpg", "b,c;d\te.jpg", 'q"r.jpg'])
    rows = [["bilder/größe.jpg", "b,c;d\te.jpg", "same", "n\n1"], ['q"r.jpg', "b,c;d\te.jpg", "UNSURE", ""]]
    with (tmp_path / "v.csv").open("wb") as file:
        file.write(bom)
    with (tmp_path / "v.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=mark).writerows([["left_image", "right_image", "verdict", "note"], *rows])
    objects = [dict(zip(("left_image", "right_image", "verdict"), row, strict=False)) for row in rows]
    write(tmp_path / "list.json", bom + json.dumps(objects).encode())
    write(
        tmp_path / "object.JSON",
        bom + json.dumps({"verdicts": objects, "by": 1}, ensure_ascii=False).encode(),
    )
    for name in ("v.csv", "list.json", "object.JSON"):
        verdicts = read_verdicts([tmp_path / name])
        assert verdicts.of(catalog, np.array([1, 2, 0]), np.array([0, 1, 2])).tolist() == [
            "same",
            "unsure",
            "",
        ]


def test_disagreement_is_unsure_and_named(tmp_path: Path) -> None:
    catalog = catalog_of(list("abcdefgh"))
    one = write(tmp_path / "mara.csv", HEADER + "a,b,same\nc,d,same\ne,f,same\ne,f,\n")
    two = write(tmp_path / "jon.csv", HEADER + "b,a,different\nc,d,same\nf,e,\ng,h,variant\nh,g,same\n")
    verdicts = read_verdicts([one, two])
    left, right = np.array([0, 2, 4, 6]), np.array([1, 3, 5, 7])
    assert verdicts.of(catalog, left, right).tolist() == ["unsure", "same", "same", "unsure"]
    assert verdicts.n_conflicts == 2
    assert verdicts.conflicts[0] == f"a and b: same ({one}), different ({two})"
    assert verdicts.conflicts[1] == f"g and h: variant ({two}), same ({two})"
    many = HEADER + "".join(f"x{k},y{k},same\nx{k},y{k},variant\n" for k in range(50))
    many_verdicts = read_verdicts([write(tmp_path / "many.csv", many)])
    assert many_verdicts.n_conflicts == 50
    assert len(many_verdicts.conflicts) == 5


def test_a_later_file_corrects_the_same_reviewer_and_nobody_else(tmp_path: Path) -> None:
    catalog = catalog_of(list("abcdef"))
    head = "left_image,right_image,verdict,reviewer\n"
    first = write(tmp_path / "1.csv", head + "a,b,same,Mara\nc,d,same,Mara\ne,f,same,\n")
    rows = [("b", "a", "different", "Mara"), ("c", "d", "variant", "Jon"), ("e", "f", "unsure", "")]
    keys = ("left_image", "right_image", "verdict", "reviewer")
    second = write(tmp_path / "2.json", json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    left, right = np.array([0, 2, 4]), np.array([1, 3, 5])
    assert read_verdicts([first, second]).of(catalog, left, right).tolist() == [
        "different",
        "unsure",
        "unsure",
    ]
    assert read_verdicts([first, second]).n_conflicts == 2
    assert read_verdicts([second, first]).of(catalog, left, right)[0] == "same"


def test_verdicts_on_pictures_of_another_catalogue_are_counted(tmp_path: Path) -> None:
    catalog = catalog_of(["a", "b"])
    verdicts = read_verdicts(
        [write(tmp_path / "v.csv", HEADER + "a,b,same\na,x,same\ny,x,same\nz,z,unsure\n")]
    )
    assert verdicts.n_foreign(catalog) == 3
    assert verdicts.pairs(catalog, "same").tolist() == [[0, 1]]
    assert len(verdicts) == 4


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
ROWS = st.lists(st.tuples(NAMES, NAMES, st.sampled_from([*VERDICTS, "", " Same"])), max_size=25)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(ROWS, max_size=3))
def test_agrees_with_a_plain_loop(tmp_path: Path, files: list[list[tuple[str, str, str]]]) -> None:
    catalog = catalog_of(["e", "c", "a", "b"])  # "d" is foreign
    names = catalog.image_paths.to_pylist()
    said: dict[frozenset[str], set[str]] = {}
    paths = []
    for k, rows in enumerate(files):
        paths.append(write_rows(tmp_path / f"{k}.csv", rows, ("left_image", "right_image", "verdict")))
        for left, right, word in rows:
            if word:
                said.setdefault(frozenset((left, right)), set()).add(word.strip().lower())
    expected = {pair: words.pop() if len(words) == 1 else "unsure" for pair, words in said.items() if words}
    verdicts = read_verdicts(paths)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)
    found = verdicts.of(catalog, grid[:, 0], grid[:, 1])
    assert found.tolist() == [expected.get(frozenset((names[a], names[b])), "") for a, b in grid]
    assert verdicts.n_foreign(catalog) == sum("d" in pair for pair in expected)
    assert len(verdicts) == len(expected)
    for word in VERDICTS:
        want = {pair for pair, w in expected.items() if w == word and "d" not in pair}
        got = verdicts.pairs(catalog, word)
        assert {frozenset((names[a], names[b])) for a, b in got} == want
        assert len(got) == len(want)
        assert (got[:, 0] <= got[:, 1]).all()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("v.csv", None, "no such file"),
        ("v.csv", b"", "the file is empty"),
        ("v.json", b"", "the file is empty"),
        ("v.csv", b"left_image,verdict\na,same\n", "lacks (or repeats) right_image"),
        ("v.csv", b"left_image,right_image,verdict,verdict\na,b,same,same\n", "lacks (or repeats) verdict"),
        ("v.csv", HEADER.encode() + b"a,b,same\na,b,yes\n", "row 2: 'yes' is no verdict; allowed are same, variant,"),
        ("v.csv", HEADER.encode() + b"a,b,x\na,b,\na,b,yes\n", "(2 such rows)"),
        ("v.csv", HEADER.encode() + b",b,\na,,same\n", "row 2 has a verdict, but does not name two pictures"),
        ("v.csv", HEADER.encode() + b"a,b,same\na,b\n", "Row #3"),
        ("v.csv", HEADER.encode() + b"a,\xff,same\n", "does not read as CSV"),
        ("v.csv", HEADER.encode("utf-16"), "does not read as CSV"),
        ("v.json", b"[{", "does not read as JSON"),
        ("v.json", b"[" * 100_000, "does not read as JSON"),
        ("v.json", b"\xff", "does not read as JSON"),
        ("v.json", b"3", "no list of verdicts"),
        ("v.json", b'{"rows": []}', "no list of verdicts"),
        ("v.json", b"[{}, 3]", "row 2 is not an object"),
        ("v.json", b'[{"verdict": 1}]', "row 1: verdict is 1, not a string"),
        ("v.json", b'[{"left_image": "a", "right_image": "b", "verdict": "Sane"}]', "row 1: 'Sane' is no verdict"),
        ("v.json", b'[{"left_image": "a", "verdict": "same"}]', "does not name two pictures"),
        ("v.json", b'[{"left_image": "\\ud800"}]', "not text"),
    ],
)  # fmt: skip
def test_an_unusable_file_says_where_and_why(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(CatalogError) as caught:
        read_verdicts([tmp_path / name])
    assert problem in caught.value.problem
    assert caught.value.where == str(tmp_path / name)
    assert caught.value.remedy


def test_nothing_judged_is_no_error(tmp_path: Path) -> None:
    catalog = catalog_of(["a", "b"])
    files = [write(tmp_path / "h.csv", HEADER), write(tmp_path / "e.json", "[]")]
    files.append(write(tmp_path / "s.csv", HEADER + "a,b,\n,,\n"))
    for paths in ([], files[:1], files):
        verdicts = read_verdicts(paths)
        assert len(verdicts) == verdicts.n_foreign(catalog) == verdicts.n_conflicts == 0
        assert verdicts.of(catalog, np.array([0]), np.array([1])).tolist() == [""]
        assert verdicts.pairs(catalog, "same").shape == (0, 2)


def test_misuse_is_refused(tmp_path: Path) -> None:
    catalog = catalog_of(["a", "b"])
    verdicts = read_verdicts([write(tmp_path / "v.csv", HEADER + "a,b,same\n")])
    with pytest.raises(ValueError, match="0..1"):
        verdicts.of(catalog, np.array([-1]), np.array([1]))
    with pytest.raises(ValueError, match="unknown verdict"):
        verdicts.pairs(catalog, "yes")
    with pytest.raises(ValueError, match="among VERDICTS"):
        review_table(catalog, review_of([(0, 1)], ["yes"]))


def test_the_sheet_reads_back_and_opens_in_a_spreadsheet(tmp_path: Path) -> None:
    hostile = ["größe.jpg", 'a "b".jpg', "c,d.jpg", "e\nf.jpg", "=1+1.jpg", "x\u2028y.jpg", "<script>.jpg"]
    catalog = read_catalog(write_rows(tmp_path / "c.csv", [(f'p"{n}', n, f"F,{n}") for n in hostile]))
    assert catalog.image_paths.to_pylist() == hostile
    pairs = [(0, 1), (3, 2), (5, 4), (6, 0), (2, 1)]
    review = review_of(pairs, ["same", "different", "", "unsure", "variant"])
    path = write_review_csv(tmp_path / "deep" / "review.csv", catalog, review)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["left_image"] for row in rows] == [hostile[a] for a, _ in pairs]
    assert [row["right_id"] for row in rows] == [f'p"{hostile[b]}' for _, b in pairs]
    assert [row["left_family"] for row in rows] == [f"F,{hostile[a]}" for a, _ in pairs]
    assert [int(row["merges"]) for row in rows] == [1, 2, 3, 4, 5]
    assert np.array_equal(np.array([row["distance"] for row in rows], np.float32), review.distance)
    verdicts = read_verdicts([path])
    assert verdicts.of(catalog, review.right_image, review.left_image).tolist() == review.verdict.tolist()
    assert not list(path.parent.glob(".*")), "no temporary file is left"
    empty = write_review_csv(tmp_path / "empty.csv", catalog, review_of([]))
    assert len(read_verdicts([empty])) == 0


def test_a_large_file(tmp_path: Path) -> None:
    """A quarter of a million rows, each pair twice, the second time the other way round."""
    n = 125_000
    words = np.array(VERDICTS)[np.random.default_rng(0).integers(0, 4, n)]
    lines = [f"images/{k:07d}.jpg,images/{k + 1:07d}.jpg,{w}\n" for k, w in enumerate(words.tolist())]
    lines += [f"images/{k + 1:07d}.jpg,images/{k:07d}.jpg,{w}\n" for k, w in enumerate(words.tolist())]
    verdicts = read_verdicts([write(tmp_path / "v.csv", HEADER + "".join(lines))])
    assert len(verdicts) == n
    catalog = catalog_of([f"images/{k:07d}.jpg" for k in range(n + 1)][::-1])
    rows = n - np.arange(n)
    assert (verdicts.of(catalog, rows - 1, rows) == words).all()
    assert len(verdicts.pairs(catalog, "same")) == (words == "same").sum()
    assert verdicts.n_foreign(catalog) == 0
