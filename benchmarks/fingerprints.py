"""Fingerprints: how fast they are, how near to the libraries that define them, and when their agreement says something.

    python benchmarks/fingerprints.py                 # the real pictures of SIAMDEDUP_DATA: about a minute
    python benchmarks/fingerprints.py --pictures 300  # of each folder, for a quick look

Speed: CPU milliseconds a picture on one core, best of five, of the thumbnail (from pictures of 128, 200 and 400 pixels)
and of each hash in batches, beside imagehash and pdqhash on the same 64 x 64 thumbnail and on the whole picture.

Agreement with the libraries: bits that differ, of the libraries' hash of the same thumbnail and of the whole picture.

Trust: of all pairs of pictures of different families (pictures that families share tie them), how many agree within a
radius, without any rule, and where both pictures have enough detail, for PDQ also enough quality. Magento shows persons
and things on plain ground, GroceryStore shelves, the photographs 500 kinds of thing; "plain" are drawn blank pictures,
gradients and vignettes with noise. Every pair found is a false match, or a duplicate that nobody listed. "copies" is
the share of pictures whose relisted copy (``relist_ops``, one each of the levels easy and medium) agrees.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import imagehash
import numpy as np
import pdqhash
from PIL import Image
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.catalog.relist_ops import relist
from siamdedup.catalog.table import read_catalog
from siamdedup.fingerprint import hashes
from siamdedup.fingerprint.detail import TRUSTED_DETAIL, detail
from siamdedup.fingerprint.pca import PcaHash
from siamdedup.fingerprint.pdq import MIN_QUALITY, PDQ_RADIUS, pdq, quality
from siamdedup.fingerprint.thumbnail import Thumbnail
from siamdedup.verification.pairs import image_truth

RADII = (
    (("dhash",), 4), (("dhash",), 10), (("phash",), 4), (("phash",), 10), (("ahash",), 4), (("ahash",), 10),
    (("pdq",), PDQ_RADIUS), (("pca",), 4), (("pca",), 6), (("dhash", "phash"), 4),
)  # fmt: skip
LEAST = (0.0, TRUSTED_DETAIL, 0.1, 0.2)
LEVELS = ("easy", "medium")
LIBRARY: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "dhash": lambda image: imagehash.dhash(image).hash.ravel(),
    "phash": lambda image: imagehash.phash(image).hash.ravel(),
    "ahash": lambda image: imagehash.average_hash(image).hash.ravel(),
    "pdq": lambda image: pdqhash.compute(np.asarray(image.convert("RGB")))[0].astype(bool),
}


@dataclass
class Pictures:
    name: str
    pixels: list[np.ndarray]
    family: np.ndarray


def load(root: Path, name: str, limit: int | None) -> Pictures:
    if (root / name / "catalog.csv").exists():
        catalog = read_catalog(root / name / "catalog.csv")
        paths = [locate(catalog, row) for row in range(catalog.n_images)][:limit]
        family = image_truth(catalog).component[:limit]
    else:
        paths = sorted((root / name).glob("*.jpg"))[:limit]
        family = np.arange(len(paths))
    return Pictures(name, [decode(read_bytes(path), where=str(path)) for path in paths], family)


def plain(count: int = 300) -> Pictures:
    rng, pixels = np.random.default_rng(3), []
    y, x = np.mgrid[0:160, 0:160] / 160 - 0.5
    for number in range(count):
        turn, start = rng.uniform(0, 2 * np.pi), rng.uniform(100, 220)
        light = (
            np.full(x.shape, start),
            start + rng.uniform(5, 80) * (np.cos(turn) * x + np.sin(turn) * y),
            start + 30 - rng.uniform(10, 120) * (x**2 + y**2),
        )[number % 3]
        grey = np.clip(light + rng.normal(0, 1.5, x.shape), 0, 255).astype(np.uint8)
        out = BytesIO()
        Image.fromarray(grey).convert("RGB").save(out, "JPEG", quality=int(rng.integers(60, 95)))
        pixels.append(decode(out.getvalue()))
    return Pictures("plain", pixels, np.arange(count))


def milliseconds(work: Callable[[], Any], count: int) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return 1000 * best / count


def speed(pixels: list[np.ndarray]) -> Table:
    table = Table(
        "step", "CPU ms a picture", "library, thumbnail", "library, whole picture", title="Speed, one core"
    )
    thumbnail = Thumbnail()
    for side in (128, 200, 400):
        shrunk = [hashes_input(p, side) for p in pixels]
        taken = milliseconds(lambda s=shrunk: [thumbnail(p) for p in s], len(pixels))
        table.add_row(f"thumbnail from {side} px", f"{taken:.4f}")
    thumbs = np.stack([thumbnail(p) for p in pixels])
    blocks = [thumbs[lo : lo + hashes.BATCH] for lo in range(0, len(thumbs), hashes.BATCH)]
    greys = [block.astype(np.float64) for block in blocks]
    lows = [hashes.low_frequencies(grey) for grey in greys]
    spectra = [hashes.spectrum(low) for low in lows]
    whole, small = [Image.fromarray(p) for p in pixels], [Image.fromarray(t) for t in thumbs]
    steps: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "dhash": (hashes.dhash, greys),
        "ahash": (hashes.ahash, greys),
        "phash": (lambda grey: hashes.phash(hashes.low_frequencies(grey)), greys),
        "pdq": (pdq, greys),
        "pdq quality": (quality, blocks),
        "detail, given pHash's frequencies": (detail, spectra),
    }
    for name, (work, given) in steps.items():
        row = [name, f"{milliseconds(lambda w=work, g=given: [w(one) for one in g], len(thumbs)):.4f}"]
        if name in LIBRARY:
            for images in (small, whole):
                taken = milliseconds(lambda f=LIBRARY[name], i=images: [f(one) for one in i], len(images))
                row.append(f"{taken:.4f}")
        table.add_row(*row)
    table.add_row(
        "all of these (describe)", f"{milliseconds(lambda: hashes.describe(thumbs), len(thumbs)):.4f}"
    )
    many = np.concatenate([hashes.describe(thumbs)["spectrum"]] * (1 + 100_000 // len(thumbs)))
    fitted = PcaHash.fit(many)
    table.add_row("pca, fit", f"{milliseconds(lambda: PcaHash.fit(many), len(many)):.5f}")
    table.add_row("pca, transform", f"{milliseconds(lambda: fitted.transform(many), len(many)):.5f}")
    return table


def hashes_input(pixels: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longest side at exactly ``side``."""
    scale = side / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def libraries(parts: list[Pictures]) -> Table:
    table = Table(
        "pictures", "hash", "same thumbnail: equal bits", "equal hashes", "whole picture: bits apart, mean", "95 %",
        title="Against the libraries",
    )  # fmt: skip
    for part in parts:
        thumbs = np.stack([Thumbnail()(p) for p in part.pixels])
        found = hashes.describe(thumbs)
        for name, library in LIBRARY.items():
            bits = np.unpackbits(found[name], axis=1).astype(bool)
            same = bits == np.stack([library(Image.fromarray(t)) for t in thumbs])
            apart = (bits != np.stack([library(Image.fromarray(p)) for p in part.pixels])).sum(1)
            table.add_row(
                f"{part.name} ({len(thumbs)})", name, f"{same.mean():.6f}", f"{same.all(1).mean():.4f}",
                f"{apart.mean():.2f} of {bits.shape[1]}", f"{np.percentile(apart, 95):.0f}",
            )  # fmt: skip
    return table


def agreeing(every: list[tuple[np.ndarray, int]], part: Pictures, share: np.ndarray) -> list[int]:
    """Pairs of different families within each hash's radius in all of ``every``: per least detail of both pictures."""
    words = [(bits.view(np.uint64), radius) for bits, radius in every]
    found = np.zeros(len(LEAST), np.int64)
    for row in range(len(share) - 1):
        near = part.family[row + 1 :] != part.family[row]
        for word, radius in words:
            near &= np.bitwise_count(word[row] ^ word[row + 1 :]).sum(1, dtype=np.int64) <= radius
        smaller = np.minimum(share[row], share[row + 1 :][near])
        found += (smaller[:, None] >= np.array(LEAST, np.float32)).sum(0)
    return [int(count) for count in found]


def trust(parts: list[Pictures]) -> Table:
    table = Table(
        "pictures", "hash", "radius", "agreeing", *(f"detail >= {least}" for least in LEAST[1:]),
        *(f"copies: {level}" for level in LEVELS), title="Pairs of different families that agree",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    thumbnail = Thumbnail()
    for part in parts:
        found = hashes.describe(np.stack([thumbnail(p) for p in part.pixels]))
        copies = {
            level: hashes.describe(np.stack([thumbnail(relist(p, rng, level)[0]) for p in part.pixels]))
            for level in LEVELS
        }
        fitted = PcaHash.fit(found["spectrum"])
        for one in (found, *copies.values()):
            one["pca"] = fitted.transform(one["spectrum"])
        share, good = found["detail"], found["pdq_quality"] >= MIN_QUALITY
        n = len(share)
        tied = sum(int(c) * (int(c) - 1) // 2 for c in np.unique(part.family, return_counts=True)[1])
        print(
            f"{part.name}: {n} pictures, {n * (n - 1) // 2 - tied:,} pairs of different families. Share of pictures with"
            f" detail >= {LEAST[1:]}: {[round(float((share >= least).mean()), 3) for least in LEAST[1:]]}, PDQ quality"
            f" >= {MIN_QUALITY}: {good.mean():.3f}. Detail, 5 to 95 %:"
            f" {np.percentile(share, [5, 25, 50, 75, 95]).round(3).tolist()}"
        )
        for names, radius in RADII:
            # The first column has no rule at all; after it PDQ's own rule counts as well.
            ruled = np.where(good, share, -1).astype(np.float32) if names == ("pdq",) else share
            counts = agreeing([(found[name], radius) for name in names], part, ruled)
            if names == ("pdq",):
                counts[0] = agreeing([(found["pdq"], radius)], part, share)[0]
            hits = [
                np.all(
                    [np.bitwise_count(found[name] ^ copies[level][name]).sum(1) <= radius for name in names],
                    0,
                )
                for level in LEVELS
            ]
            table.add_row(
                part.name, " and ".join(names), str(radius), *(f"{count:,}" for count in counts),
                *(f"{hit.mean():.3f}" for hit in hits),
            )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SIAMDEDUP_DATA", here)))
    parser.add_argument("--pictures", type=int, default=None, help="of each folder; default: all")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data}: no such folder; set SIAMDEDUP_DATA")
    parts = [load(options.data, name, options.pictures) for name in ("magento", "grocery", "photos")]
    console = Console(width=130)
    console.print(speed(parts[2].pixels))
    console.print(libraries(parts))
    console.print(trust([*parts, plain()]))


if __name__ == "__main__":
    main()
