"""Is a geometrically verified pair a copy? Relistings of known truth against look-alikes, templates and colour variants.

    python benchmarks/geometry.py                   # Magento's 668 pictures and 240 relistings
    python benchmarks/geometry.py --count 480 --neighbours 20

Needs the shared test data (SIAMDEDUP_DATA, or ../shared/data beside the clone). Every pair below is measured:

- easy, medium, hard: a planted relisting and its source;
- look-alike: each picture with the 10 of other families whose grey 16 x 16 thumbnails correlate most, once among the
  catalogue's own pictures and once where a relisting takes part (a hard one may lie on a third product's picture, which
  it then does contain);
- template, badges: a picture and its nearest of another family, on both the same sticker and the same caption;
- template, half: the same two beside the same third picture of their height, as a size chart or a logo would be;
- variant: other pictures of the same family (other colours, mostly, and other views).

The families are halved. On one half the settings are chosen (no wrong look-alike or template accepted beyond the fewest
possible, then most copies); the table tells the shares accepted in the other half, where both pictures' families belong
to it, under those settings and under the defaults. Seconds are of one pass over all pairs, features included.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.families import image_families
from siamdedup.catalog.images import Pixels, decode, read_bytes, shrink
from siamdedup.catalog.locate import locate
from siamdedup.catalog.relist import plant
from siamdedup.catalog.relist_overlays import draw_badge, draw_text, resize
from siamdedup.catalog.table import read_catalog
from siamdedup.dedup.geometry import COLUMNS, GeometricCheck
from siamdedup.types import Catalog

COPIES = ("easy", "medium", "hard")
WRONG = ("look-alike", "look-alike, relisted", "template, badges", "template, half")
GRID = {
    "min_inliers": (6, 8, 10, 12, 15, 20),
    "min_hull": (0.0, 0.03, 0.06, 0.1),
    "min_detail": (-1.0, 0.7, 0.8, 0.85, 0.9, 0.95),
    "max_colour": (15.0, 20.0, 25.0, 30.0, np.inf),
    "max_conflict": (0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
}


def shared_data() -> Path:
    given = os.environ.get("SIAMDEDUP_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "magento" / "catalog.csv").is_file():
        sys.exit(
            f"skipped: no magento/catalog.csv under {folder}; set SIAMDEDUP_DATA to the shared test data"
        )
    return folder


def load(catalog: Catalog, row: int) -> Pixels:
    return decode(read_bytes(locate(catalog, row)), max_side=480)


def nearest(catalog: Catalog, family: np.ndarray, count: int) -> np.ndarray:
    """int64 (n, count): pictures of other families, the most alike as thumbnails first."""
    small = [cv2.cvtColor(shrink(load(catalog, r), 64), cv2.COLOR_RGB2GRAY) for r in range(catalog.n_images)]
    grey = [cv2.resize(g, (16, 16), interpolation=cv2.INTER_AREA).ravel() for g in small]
    x = np.array(grey, np.float32)
    x -= x.mean(1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-6
    similarity = np.where(family[:, None] == family, -2, x @ x.T)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def templates(catalog: Catalog, near: np.ndarray, rows: np.ndarray, folder: Path) -> Catalog:
    """Pictures (four each of ``rows``): it and its nearest with one sticker and caption, and beside one third picture."""
    names = []
    for k, row in enumerate(rows.tolist()):
        pair = [load(catalog, row), load(catalog, int(near[row, 0]))]
        third = load(catalog, int(rows[(k + len(rows) // 2) % len(rows)]))
        for kind in ("badges", "half"):
            for side, picture in enumerate(pair):
                if kind == "badges":
                    made = draw_badge(picture, np.random.default_rng([k, 1]), 0.7)
                    made = draw_text(made, np.random.default_rng([k, 2]), 0.7)
                else:
                    height = picture.shape[0]
                    made = np.hstack(
                        [picture, resize(third, round(third.shape[1] * height / third.shape[0]), height)]
                    )
                name = f"{k:05d}-{kind}-{side}.jpg"
                cv2.imwrite(str(folder / name), made[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
                names.append(name)
    n = len(names)
    text = pa.array(names, pa.string())
    return Catalog(text, text, np.arange(n), text, np.arange(n + 1), np.arange(n), folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=240, help="pictures to relist")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--neighbours", type=int, default=10, help="look-alikes of each picture")
    parser.add_argument("--save", type=Path, help="also write what was measured, as .npz")
    options = parser.parse_args()
    data = shared_data()
    with tempfile.TemporaryDirectory() as folder:
        original = read_catalog(data / "magento" / "catalog.csv")
        catalog = plant(original, Path(folder), count=options.count, seed=options.seed, progress=False)
        compare(catalog, Path(folder), options.neighbours, options.save)


def compare(catalog: Catalog, folder: Path, neighbours: int, save: Path | None) -> None:
    copy, source = catalog.relisted_image.T
    base = np.arange(catalog.n_images)
    base[copy] = source
    family = image_families(catalog)[base]  # a relisting is of its source's family
    relisted = base != np.arange(len(base))
    near = nearest(catalog, family, neighbours)
    check = GeometricCheck()

    pairs = {name: np.empty((0, 2), np.int64) for name in (*COPIES, *WRONG[:2], "variant")}
    level = np.array(catalog.relisted_level)
    for name in COPIES:
        pairs[name] = catalog.relisted_image[level == name]
    look = np.unique(
        np.sort(np.stack([np.repeat(np.arange(len(base)), near.shape[1]), near.ravel()], 1)), axis=0
    )
    made = relisted[look].any(1)
    pairs[WRONG[0]], pairs[WRONG[1]] = look[~made], look[made]
    own = np.flatnonzero(~relisted)
    a, b = np.nonzero(np.triu(family[own][:, None] == family[own], 1))
    pairs["variant"] = np.stack([own[a], own[b]], 1)

    kinds = np.repeat(list(pairs), [len(p) for p in pairs.values()])
    rows = np.concatenate(list(pairs.values()))
    started = time.perf_counter()
    measured = check.measure(catalog, rows[:, 0], rows[:, 1])
    seconds = time.perf_counter() - started
    halves = (np.random.default_rng(1).permutation(family.max() + 1) % 2)[family]
    half = np.where(halves[rows[:, 0]] == halves[rows[:, 1]], halves[rows[:, 0]], -1)

    chosen = np.sort(np.random.default_rng(2).permutation(own)[:200])
    chosen = chosen[halves[chosen] == halves[near[chosen, 0]]]
    shop = templates(catalog, near, chosen, folder)
    left = np.arange(0, shop.n_images, 2)
    kinds = np.concatenate([kinds, np.tile(WRONG[2:], len(chosen))])
    half = np.concatenate([half, np.repeat(halves[chosen], 2)])
    measured = np.concatenate([measured, check.measure(shop, left, left + 1)])
    if save:
        np.savez(save, measured=measured, kinds=kinds, half=half, columns=COLUMNS)
    report(measured, kinds, half)
    n = len(rows)
    Console().print(
        f"{n:,} pairs of {catalog.n_images:,} pictures in {seconds:.1f} s: {1000 * seconds / n:.2f} ms a pair"
    )


def tuned(measured: np.ndarray, kinds: np.ndarray, wrong_kinds: tuple[str, ...]) -> GeometricCheck:
    """Fewest wrong ones, then most copies; of equals the strictest."""
    wrong, copy = np.isin(kinds, wrong_kinds), np.isin(kinds, COPIES)
    best, found = None, GeometricCheck()
    for values in itertools.product(*GRID.values()):
        check = GeometricCheck(**dict(zip(GRID, values, strict=True)))
        accepted = check.verdict(measured) == 1
        score = (-int((accepted & wrong).sum()), int((accepted & copy).sum()))
        if best is None or score >= best:
            best, found = score, check
    return found


def report(measured: np.ndarray, kinds: np.ndarray, half: np.ndarray) -> None:
    console = Console(width=150)
    chosen = tuned(measured[half == 0], kinds[half == 0], WRONG)
    without = replace(chosen, max_colour=np.inf)
    alone = GeometricCheck(min_inliers=15, min_hull=0, min_detail=-1, max_colour=np.inf, max_conflict=1)
    ways = {
        "chosen": chosen,
        "without colour": without,
        "defaults": GeometricCheck(),
        "15 inliers alone": alone,
    }
    for name, check in ways.items():
        console.print(name, {k: getattr(check, k) for k in GRID}, highlight=False)
    table = Table(
        "pairs",
        "in all",
        "cannot tell",
        "held out",
        title="Accepted as a copy, of held-out families (of all)",
    )
    for name in ways:
        table.add_column(name, justify="right")
    for kind in (*COPIES, *WRONG, "variant"):
        every = kinds == kind
        out = every & (half == 1)
        row = [kind, f"{every.sum():,}", f"{np.isnan(measured[every, 0]).mean():.3f}", f"{out.sum():,}"]
        for check in ways.values():
            yes = check.verdict(measured) == 1
            row.append(f"{yes[out].mean():.4f} ({yes[every].sum():,})")
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
