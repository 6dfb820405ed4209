"""LFW's pairs.txt and the CSV of pairs: what they say is what comes out, and a bad line is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.pairs_file import NO_FOLD, PairsFile, read_pairs
from siamdedup.catalog.table import read_catalog
from siamdedup.errors import CatalogError

LFW = """2\t2
Ada\t1\t2
Bo Li\t1\t3
Ada\t1\tBo Li\t1
Cy\t1\tAda\t2
Cy\t1\t2
Ada\t2\t3
Cy\t2\tBo Li\t3
Ada\t3\tCy\t2
"""


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three names with three pictures each; only their being there counts here."""
    for name in ("Ada", "Bo Li", "Cy"):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for i in (1, 2, 3):
            suffix = "png" if name == "Cy" else "jpg"
            (tmp_path / "lfw" / name / f"{name}_{i:04d}.{suffix}").write_bytes(b"picture")
    return tmp_path


def read(folder: Path, text: str, name: str = "pairs.txt", **options: object) -> PairsFile:
    (folder / name).write_text(text, encoding="utf-8")
    return read_pairs(folder / name, **{"root": folder / "lfw", **options})  # type: ignore[arg-type]


def told(pairs: PairsFile) -> list[tuple[str, str, bool, int]]:
    paths = pairs.image_paths.to_pylist()
    columns = (pairs.left.tolist(), pairs.right.tolist(), pairs.is_match.tolist(), pairs.fold.tolist())
    return [(paths[a], paths[b], m, f) for a, b, m, f in zip(*columns, strict=True)]


def test_pairs_txt_of_two_folds(faces: Path) -> None:
    ledger = Ledger()
    pairs = read(faces, LFW, ledger=ledger)
    ada, bo, cy = (
        [f"{n}/{n}_{i:04d}.{s}" for i in (1, 2, 3)]
        for n, s in (("Ada", "jpg"), ("Bo Li", "jpg"), ("Cy", "png"))
    )
    assert told(pairs) == [
        (ada[0], ada[1], True, 1), (bo[0], bo[2], True, 1), (ada[0], bo[0], False, 1), (ada[1], cy[0], False, 1),
        (cy[0], cy[1], True, 2), (ada[1], ada[2], True, 2), (bo[2], cy[1], False, 2), (ada[2], cy[1], False, 2),
    ]  # fmt: skip
    assert pairs.has_folds
    assert len(pairs) == 8
    assert not len(ledger)
    assert (pairs.left < pairs.right).all()
    assert dict(zip(pairs.image_paths.to_pylist(), pairs.names.to_pylist(), strict=True))[bo[2]] == "Bo Li"
    assert pairs.data_hash == hashlib.sha256(LFW.encode()).hexdigest()


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t + "\n\n"])
def test_other_line_ends_and_a_byte_order_mark_change_nothing(faces: Path, change: object) -> None:
    assert told(read(faces, change(LFW), "b.txt")) == told(read(faces, LFW))  # type: ignore[operator]


def test_one_set_without_folds_and_blanks_between_fields(faces: Path) -> None:
    pairs = read(faces, "1\nAda 1 2\nAda 1 Cy 3\n")
    assert [row[2:] for row in told(pairs)] == [(True, NO_FOLD), (False, NO_FOLD)]
    assert not pairs.has_folds


def test_the_pictures_as_a_catalogue(faces: Path) -> None:
    pairs = read(faces, LFW)
    catalog = pairs.catalog()
    assert catalog.n_images == catalog.n_products == len(pairs.image_paths)
    assert all(locate(catalog, k).is_file() for k in range(catalog.n_images))
    assert catalog.families.to_pylist() == pairs.names.to_pylist()
    assert [catalog.images_of(k).tolist() for k in range(catalog.n_products)] == [
        [k] for k in range(catalog.n_products)
    ]
    # The same catalogue as the gate for tables makes of the same rows.
    rows = [f'"{p}","{p}","{n}"' for p, n in zip(catalog.image_paths, catalog.families, strict=True)]
    (faces / "c.csv").write_text("\n".join(["productId,imageUrlStr,productFamily", *rows]))
    table = read_catalog(faces / "c.csv", root=faces / "lfw")
    assert table.image_paths.equals(catalog.image_paths)
    assert np.array_equal(table.labels, catalog.labels)
    assert table.root == catalog.root


CSV = """left,right,is_match,fold
Ada/Ada_0001.jpg,Ada/Ada_0002.jpg,1,0
"Cy/Cy_0001.png",Ada/Ada_0001.jpg,No,0
Cy/Cy_0001.png,Cy/Cy_0002.png,TRUE,4
"""


def test_a_csv_with_and_without_folds(faces: Path) -> None:
    pairs = read(faces, CSV, "p.csv")
    assert [row[2:] for row in told(pairs)] == [(True, 0), (False, 0), (True, 4)]
    assert told(pairs)[1][:2] == ("Ada/Ada_0001.jpg", "Cy/Cy_0001.png")
    assert pairs.names.equals(pairs.image_paths)
    bare = "\n".join(line.rsplit(",", 1)[0] for line in CSV.splitlines())
    assert set(read(faces, bare, "q.csv").fold.tolist()) == {NO_FOLD}
    # Paths start from the file's own folder where no root is given.
    local = read(faces / "lfw", CSV, "p.csv", root=None)
    assert told(local) == told(pairs)


def test_pairs_that_cannot_be_used_are_named_and_the_rest_goes_on(faces: Path) -> None:
    (faces / "lfw/Ada/Ada_0002.jpg").unlink()
    ledger = Ledger()
    text = CSV + "Cy/Cy_0002.png,Cy/Cy_0001.png,1,0\nCy/Cy_0003.png,Cy/Cy_0003.png,1,0\n"
    pairs = read(faces, text, "p.csv", ledger=ledger)
    assert len(pairs) == 2
    assert "Ada/Ada_0002.jpg" not in pairs.image_paths.to_pylist()
    assert {row: reason.split(":")[0] for _, row, _, reason in ledger} == {
        1: "missing picture",
        4: "repeated pair",
        5: "picture with itself",
    }
    assert {source for source, *_ in ledger} == {str(faces / "p.csv")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: '' starts no file of pairs"),
        ("Ada 1 2\n", "line 1: 'Ada 1 2' starts no file"),
        ("0\n", "line 1: '0' is not 'folds pairs'"),
        ("1 2 3\n", "line 1: '1 2 3' is not"),
        (LFW.rsplit("\n", 2)[0], "are 8 lines, but 7 follow line 1"),
        (LFW + "Ada\t1\t3\n", "are 8 lines, but 9 follow"),
        (LFW.replace("Bo Li\t1\t3", "Bo Li\t1\tCy\t3"), "line 3: .*Cy.* is not 'name i j' of a matching"),
        (LFW.replace("Ada\t1\tBo Li\t1", "Ada\t1\t3"), "line 4: .* is not 'name i name j' of a non-matching"),
        (LFW.replace("Cy\t1\t2", "Cy\tx\t2"), "line 6: .* is not 'name i j'"),
        (LFW.replace("Ada\t1\tBo Li\t1", "Ada\t1\tAda\t3"), "line 4: 'Ada' is called different from itself"),
        ("left,right,match\n", "line 1: column 'is_match' is missing"),
        (CSV + "Ada/Ada_0001.jpg,1\n", "line 5: it has not 4 fields"),
        (CSV + "a,b,1,2,3\n", "line 5: it has not 4 fields"),
        (CSV + "a,,1,2\n", "line 5: a picture is not named"),
        (CSV + "a,b,maybe,2\n", "line 5: is_match is 'maybe'"),
        (CSV + "a,b,1,first\n", "line 5: fold is 'first'"),
        (CSV + "a,b,1,-1\n", "line 5: fold is '-1'"),
        (CSV + 'a,"b"x,1,1\n', "line 5: it does not read as CSV"),
        (CSV + "Ada/Ada_0002.jpg,Ada/Ada_0001.jpg,0,0\n", "line 5: the pair of line 2 again, but not matching"),
        ("left,right,is_match\n", "none of its 0 pairs can be used"),
        ("1\nDi 1 2\nDi 1 Ed 2\n", "none of its 2 pairs can be used: no picture of them is there"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_by_line(faces: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as error:
        read(faces, text)
    assert str(error.value).startswith(f"{faces / 'pairs.txt'}: ")
    assert "Remedy:" in str(error.value)


def test_no_file_and_no_text(faces: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        read_pairs(faces / "nothing.txt")
    (faces / "p.txt").write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(CatalogError, match="not UTF-8"):
        read_pairs(faces / "p.txt")
