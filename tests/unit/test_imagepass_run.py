"""The image pass: every picture once, whatever is killed, changed or broken."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_catalog, write_rows

from siamdedup.catalog.images import decode, digest, luma, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.table import read_catalog
from siamdedup.imagepass.export import export_parquet
from siamdedup.imagepass.run import PassSettings, image_pass
from siamdedup.types import Catalog


@dataclass(frozen=True)
class Corner:
    """The upper left 4 x 4 pixels."""

    shape: tuple[int, ...] = (4, 4, 3)
    grey: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[:4, :4]


@dataclass(frozen=True)
class GreyCorner(Corner):
    shape: tuple[int, ...] = (4, 4, 1)
    grey: bool = True

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return (pixels if pixels.ndim == 2 else luma(pixels))[:4, :4, None]


@dataclass
class Sum:
    """Row sums and the maximum, scaled; counts what it is asked."""

    key: str = "1"
    name: str = "sum"
    side: int = 40
    factor: float = 1.0
    dies_after: int = 10**9
    asked: int = 0
    prepare: Corner = field(default_factory=Corner)
    arrays: dict[str, tuple[str, tuple[int, ...]]] = field(
        default_factory=lambda: {
            "rows": ("float16", (4,)),
            "most": ("uint8", ()),
            "pair": ("int32", (2,)),
        }
    )

    def __post_init__(self) -> None:
        self.arrays = {f"{self.name}_{name}": spec for name, spec in self.arrays.items()}

    def compute(self, prepared: np.ndarray) -> dict[str, np.ndarray]:
        if self.asked >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += len(prepared)
        return {f"{self.name}_{name}": values for name, values in self.values(prepared).items()}

    def values(self, prepared: np.ndarray) -> dict[str, np.ndarray]:
        sums = prepared.astype(np.float32).sum((2, 3)) * self.factor
        most = prepared.reshape(len(prepared), -1).max(1)
        pair = np.stack([most, most], 1).astype(np.int32) * [1, -1]
        return {"rows": sums.astype(np.float16), "most": most, "pair": pair}


SETTINGS = PassSettings(batch_size=4, workers=0, shard_size=10)


def run(
    catalog: Catalog,
    cache: Path,
    *features: Any,
    settings: PassSettings = SETTINGS,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    return image_pass(catalog, features or [Sum()], cache, settings, ledger=ledger, progress=False)


def plain_loop(catalog: Catalog, feature: Sum) -> dict[str, np.ndarray]:
    pixels = [
        decode(read_bytes(locate(catalog, row)), at_least=feature.side)[:4, :4]
        for row in range(catalog.n_images)
    ]
    return {f"{feature.name}_{n}": v for n, v in feature.values(np.stack(pixels)).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch", "shard"), [(4, 10), (7, 100), (64, 3)])
def test_values_are_those_of_a_plain_loop(
    tiny_catalog: Path, tmp_path: Path, workers: int, batch: int, shard: int
) -> None:
    catalog = read_catalog(tiny_catalog)
    settings = PassSettings(batch_size=batch, workers=workers, shard_size=shard)
    found = run(catalog, tmp_path, settings=settings)["sum"]
    assert found.rows.tolist() == list(range(48))
    assert found.computed == 48
    assert found.failed.num_rows == 0
    for name, values in plain_loop(catalog, Sum()).items():
        assert np.array_equal(found.arrays[name], values)
    for row in range(48):
        data = read_bytes(locate(catalog, row))
        assert bytes(found.arrays["digest"][row]) == bytes.fromhex(digest(data))
        assert found.arrays["size"][row].tolist() == list(decode(data, at_least=40).shape[1::-1])


def test_two_features_share_one_decoding_at_the_larger_side(tiny_catalog: Path, tmp_path: Path) -> None:
    catalog = read_catalog(tiny_catalog)
    one, other = Sum(), Sum(name="other", side=64, factor=0.5)
    found = run(catalog, tmp_path, one, other)
    wide = Sum(side=64)
    for feature in (wide, other):
        for name, values in plain_loop(
            catalog, Sum(name=feature.name, side=64, factor=feature.factor)
        ).items():
            assert np.array_equal(found[feature.name].arrays[name], values)


def test_a_killed_pass_goes_on_behind_its_last_shard_with_the_same_bytes(
    tiny_catalog: Path, tmp_path: Path
) -> None:
    catalog = read_catalog(tiny_catalog)
    run(catalog, tmp_path / "whole")
    dying = Sum(dies_after=27)  # the third block is in work
    with pytest.raises(KeyboardInterrupt):
        run(catalog, tmp_path / "killed", dying)
    assert len(list((tmp_path / "killed").glob("*/*.parquet"))) == 2
    again = Sum()
    assert run(catalog, tmp_path / "killed", again)["sum"].computed == again.asked == 28
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    more = Sum()
    assert run(catalog, tmp_path / "killed", more)["sum"].computed == more.asked == 0


def test_a_kill_between_two_features_shards_costs_neither(tiny_catalog: Path, tmp_path: Path) -> None:
    catalog = read_catalog(tiny_catalog)
    features = (Sum(), Sum(name="other", factor=0.25))
    run(catalog, tmp_path, *features)
    before = files(tmp_path)
    (folder,) = tmp_path.glob("other-*")
    for path in sorted(folder.glob("*.parquet"))[:2]:
        path.unlink()
    shutil.rmtree(folder / "views")
    one, other = Sum(), Sum(name="other", factor=0.25)
    found = run(catalog, tmp_path, one, other)
    assert one.asked == found["sum"].computed == 0
    assert found["other"].computed == other.asked > 0
    assert files(tmp_path) == before


def test_only_what_changed_is_computed_again(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c")
    cache = tmp_path / "cache"
    run(read_catalog(source), cache)
    # A new row in front moves every block.
    rows = [line.split(",") for line in source.read_text().split()][1:]
    shutil.copy(tmp_path / "c/images/f3_p1_v0.png", tmp_path / "c/images/new.png")
    write_rows(source, [("new", "images/new.png", "N"), *map(tuple, rows)])  # type: ignore[list-item]
    catalog = read_catalog(source)
    found = run(catalog, cache)["sum"]
    assert found.computed == 1
    for name, values in plain_loop(catalog, Sum()).items():
        assert np.array_equal(found.arrays[name], values)
    # A picture that was replaced.
    path = locate(catalog, 20)
    path.write_bytes(locate(catalog, 5).read_bytes())
    found = run(catalog, cache)["sum"]
    assert found.computed == 1
    assert np.array_equal(found.arrays["sum_rows"][20], found.arrays["sum_rows"][5])
    # Rows that went away, in another order.
    write_rows(source, list(map(tuple, rows[::-2])))  # type: ignore[arg-type]
    catalog = read_catalog(source)
    found = run(catalog, cache)["sum"]
    assert found.computed == 0
    for name, values in plain_loop(catalog, Sum()).items():
        assert np.array_equal(found.arrays[name], values)


def test_a_catalogue_that_lost_its_last_pictures(tmp_path: Path) -> None:
    """Its only block is then the beginning of a longer shard."""
    settings = dataclasses.replace(SETTINGS, shard_size=1000)
    source = make_catalog(tmp_path / "c")
    run(read_catalog(source), tmp_path / "cache", settings=settings)
    rows = [tuple(line.split(",")) for line in source.read_text().split()][1:]
    write_rows(source, rows[:-3])  # type: ignore[arg-type]
    catalog = read_catalog(source)
    found = run(catalog, tmp_path / "cache", settings=settings)["sum"]
    assert found.computed == 0
    assert found.rows.tolist() == list(range(catalog.n_images))
    for name, values in plain_loop(catalog, Sum()).items():
        assert np.array_equal(found.arrays[name], values)


def test_colours_are_decoded_only_where_a_feature_wants_them(tiny_catalog: Path, tmp_path: Path) -> None:
    """Grey pixels may give other values in the last digit, so the two are kept apart."""
    catalog, grey, other = read_catalog(tiny_catalog), Sum(prepare=GreyCorner()), Sum(name="other")
    pixels = [decode(read_bytes(locate(catalog, row)), at_least=40, grey=True) for row in range(48)]
    wanted = grey.values(np.stack([p[:4, :4, None] for p in pixels]))
    alone = run(catalog, tmp_path, grey)["sum"]
    assert alone.computed == 48
    assert all(np.array_equal(alone.arrays[f"sum_{name}"], values) for name, values in wanted.items())
    both = run(catalog, tmp_path, grey, other)
    assert [both[name].computed for name in ("sum", "other")] == [48, 48]
    assert (
        run(catalog, tmp_path, other)["other"].computed == run(catalog, tmp_path, grey)["sum"].computed == 0
    )


def test_another_model_leaves_the_other_feature_alone(tiny_catalog: Path, tmp_path: Path) -> None:
    catalog = read_catalog(tiny_catalog)
    run(catalog, tmp_path, Sum(), Sum(name="other"))
    found = run(catalog, tmp_path, Sum(key="2", factor=2), Sum(name="other"))
    assert (found["sum"].computed, found["other"].computed) == (48, 0)
    assert np.array_equal(found["sum"].arrays["sum_rows"], plain_loop(catalog, Sum(factor=2))["sum_rows"])


def test_the_same_bytes_under_two_names_are_decoded_once(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=3)
    rows = [line.split(",") for line in source.read_text().split()][1:]
    for k in range(4):
        shutil.copy(tmp_path / "c/images/f0_p0_v0.png", tmp_path / f"c/images/copy{k}.png")
    (tmp_path / "c/images/copy3.png").write_bytes(b"GIF89a, and no more")
    shutil.copy(tmp_path / "c/images/copy3.png", tmp_path / "c/images/copy4.png")
    rows += [[f"C{k}", f"images/copy{k}.png", "F9"] for k in range(5)]
    write_rows(source, list(map(tuple, rows)))  # type: ignore[arg-type]
    catalog = read_catalog(source)
    feature, ledger = Sum(), Ledger()
    found = run(catalog, tmp_path / "cache", feature, settings=PassSettings(4, 0, 100), ledger=ledger)["sum"]
    assert feature.asked == found.computed == 13  # 12 pictures and one of the two that are none
    assert found.rows.tolist() == [*range(12), 12, 13, 14]
    assert (found.arrays["sum_rows"][12:] == found.arrays["sum_rows"][0]).all()
    assert [(row, item) for _, row, item, _ in ledger] == [(10, "images/copy3.png"), (11, "images/copy4.png")]


def test_bad_pictures_are_named_with_their_row_each_time(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=3)
    (tmp_path / "c/images/f1_p0_v1.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "c/images/f2_p1_v0.png").unlink()
    catalog = read_catalog(source)
    ledger = Ledger()
    found = run(catalog, tmp_path / "cache", ledger=ledger)["sum"]
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]
    entries = sorted(ledger)
    assert [(item, row) for _, row, item, _ in entries] == [
        ("images/f1_p0_v1.png", 3),
        ("images/f2_p1_v0.png", 6),
    ]
    assert all(reason.startswith("unreadable image: ") for *_, reason in entries)
    assert "no such file" in entries[1][3]
    again = Ledger()
    assert run(catalog, tmp_path / "cache", ledger=again)["sum"].computed == 0
    assert sorted(again) == entries
    # The file that comes back is another content, so it is looked at.
    shutil.copy(tmp_path / "c/images/f0_p0_v0.png", tmp_path / "c/images/f2_p1_v0.png")
    assert run(catalog, tmp_path / "cache")["sum"].computed == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_failure_of_the_moment_is_tried_again(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=2)
    path = tmp_path / "c/images/f1_p0_v1.png"
    path.chmod(0)
    assert len(run(read_catalog(source), tmp_path / "cache")["sum"].rows) == 7
    path.chmod(0o644)
    assert len(run(read_catalog(source), tmp_path / "cache")["sum"].rows) == 8


def test_a_time_out_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_catalog(tmp_path / "c", families=2)
    catalog = read_catalog(source)
    run(catalog, tmp_path / "cache", settings=PassSettings(4, 0, 3))
    expected = np.array(run(catalog, tmp_path / "cache")["sum"].arrays["sum_rows"])
    (store,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(store / "views")
    one = sorted(store.glob("*.parquet"))[0]
    table = pq.read_table(one)
    reasons = ["decoding took more than 60 s", *[""] * (table.num_rows - 1)]
    pq.write_table(table.set_column(2, "reason", [reasons]), one)
    found = run(catalog, tmp_path / "cache", settings=PassSettings(4, 0, 3))["sum"]
    assert found.computed == 1
    assert np.array_equal(found.arrays["sum_rows"], expected)


def test_an_export_brings_ids_and_values_together(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=3)
    (tmp_path / "c/images/f1_p0_v1.png").write_bytes(b"no picture")
    rows = [line.split(",") for line in source.read_text().split()][1:]
    rows.append(["extra", "images/f0_p0_v0.png;images/f1_p0_v1.png", "F7"])
    write_rows(source, list(map(tuple, rows)))  # type: ignore[arg-type]
    catalog = read_catalog(source)
    found = run(catalog, tmp_path / "cache")
    table = pq.read_table(export_parquet(tmp_path / "pictures.parquet", catalog, found)).to_pylist()
    assert [row["image"] for row in table] == catalog.image_paths.to_pylist()
    assert table[0]["product_ids"] == ["P0-0", "extra"]
    bad = [k for k, row in enumerate(table) if row["reason"] is not None]
    assert bad == [5]
    assert all(table[5][name] is None for name in ("digest", "width", "sum_rows", "sum_most", "sum_pair"))
    for k, row in enumerate(found["sum"].rows.tolist()):
        assert np.array_equal(
            np.frombuffer(table[row]["sum_rows"], "<f2"), found["sum"].arrays["sum_rows"][k]
        )
        assert table[row]["sum_most"] == found["sum"].arrays["sum_most"][k]
        assert table[row]["digest"] == bytes(found["sum"].arrays["digest"][k])
        assert [table[row]["width"], table[row]["height"]] == found["sum"].arrays["size"][k].tolist()


def test_a_catalogue_without_a_readable_picture(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "c.csv", [("a", "gone.jpg", "A"), ("b", "away.jpg", "B")])
    ledger = Ledger()
    found = run(read_catalog(source), tmp_path / "cache", ledger=ledger)["sum"]
    assert found.arrays["sum_rows"].shape == (0, 4)
    assert len(ledger) == 2
