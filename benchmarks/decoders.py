"""Which decoder for which format: pictures a second and core, and whether the pixels are the same.

    python benchmarks/decoders.py [--count 60]        (SIAMDEDUP_DATA: photos/, about a minute)

The photographs are re-encoded in every format, at their own 400 px and enlarged to 1,200 px, and decoded whole and
to 299 px (CPU time, best of three passes). "max diff" is against this package's own pixels, whole pictures only.
The last lines give the cost of `decode` over the bare `simplejpeg.decode_jpeg` and the same resize.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from siamdedup.catalog.images import Pixels, decode, shrink

SIDE = 299
Decoder = Callable[[bytes, int | None], Pixels]


def ours(data: bytes, side: int | None) -> Pixels:
    return decode(data, max_side=side)


def pillow(data: bytes, side: int | None) -> Pixels:
    with Image.open(BytesIO(data)) as image:
        if side:
            image.draft("RGB", (2 * side, 2 * side))
        pixels = np.asarray(image.convert("RGB"))
    return shrink(pixels, side) if side else pixels


def opencv(data: bytes, side: int | None) -> Pixels:
    flags = cv2.IMREAD_COLOR
    if side:
        height, width, *_ = simplejpeg.decode_jpeg_header(data) if data[:2] == b"\xff\xd8" else (0, 0)
        factor = max(height, width) // side
        flags = {0: flags, 1: flags, 2: cv2.IMREAD_REDUCED_COLOR_2, 3: cv2.IMREAD_REDUCED_COLOR_2}.get(
            factor, cv2.IMREAD_REDUCED_COLOR_4
        )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)
    return shrink(pixels, side) if side else pixels


def bare(data: bytes, side: int | None) -> Pixels:
    """simplejpeg alone, scaled as ours is."""
    if side:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        scale = side / max(height, width) if max(height, width) >= 2 * side else 0
        least = {"min_height": int(height * scale), "min_width": int(width * scale)}
        return shrink(simplejpeg.decode_jpeg(data, **least), side)
    return simplejpeg.decode_jpeg(data)


def torchvision(data: bytes, side: int | None) -> Pixels:
    tensor = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    pixels = tensor.permute(1, 2, 0).contiguous().numpy()
    return shrink(pixels, side) if side else pixels


DECODERS: dict[str, Decoder] = {
    "ours": ours, "Pillow": pillow, "OpenCV": opencv, "simplejpeg": bare, "torchvision": torchvision
}  # fmt: skip
FORMATS: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "JPEG", {"quality": 90}),
    ("JPEG progressive", "JPEG", {"quality": 90, "progressive": True}),
    ("PNG", "PNG", {}),
    ("PNG alpha", "PNG", {}),
    ("WebP", "WEBP", {"quality": 90}),
    ("WebP lossless", "WEBP", {"lossless": True, "method": 2}),
    ("AVIF", "AVIF", {"speed": 9}),
    ("GIF", "GIF", {}),
    ("TIFF LZW", "TIFF", {"compression": "tiff_lzw"}),
    ("BMP", "BMP", {}),
]


def rate(decoder: Decoder, files: list[bytes], side: int | None) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for data in files:
            decoder(data, side)
        best = min(best, time.process_time() - start)
    return len(files) / best


def encode(images: list[Image.Image], name: str, form: str, options: dict[str, Any]) -> list[bytes]:
    files = []
    for image in images:
        if name == "PNG alpha":
            image = image.copy()
            image.putalpha(image.convert("L"))
        out = BytesIO()
        image.save(out, form, **options)
        files.append(out.getvalue())
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    here = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SIAMDEDUP_DATA", here)))
    options = parser.parse_args()
    paths = sorted((options.data / "photos").glob("*.jpg"))[: options.count]
    if not paths:
        raise SystemExit(f"{options.data}/photos: no pictures; set SIAMDEDUP_DATA")
    torch.set_num_threads(1)
    small = [Image.open(path).convert("RGB") for path in paths]
    large = [
        image.resize((1200, 1200 * image.height // image.width), Image.Resampling.BICUBIC)
        for image in small[: max(4, len(small) // 6)]
    ]
    print(f"{'pictures/s per core':26}" + "".join(f"{name:>22}" for name in DECODERS))
    for label, images, side in (
        ("400", small, None),
        ("1200", large, None),
        (f"1200 to {SIDE}", large, SIDE),
    ):
        for name, form, how in FORMATS:
            files = encode(images, name, form, how)
            row = f"{name + ', ' + label:26}"
            for title, decoder in DECODERS.items():
                try:
                    speed = rate(decoder, files, side)
                except Exception:  # no such format in this decoder
                    row += f"{'-':>22}"
                    continue
                note = ""
                if side is None and title != "ours":
                    pairs = ((decoder(d, None), ours(d, None)) for d in files[:10])
                    note = f" (max diff {max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)})"
                row += f"{f'{speed:,.0f}{note}':>22}"
            print(row, flush=True)
    files = [path.read_bytes() for path in paths]
    for side in (None, SIDE):
        both = [(1 / rate(ours, files, side), 1 / rate(bare, files, side)) for _ in range(5)]
        mine, theirs = np.median(both, axis=0) * 1e6
        ratio = float(np.median([a / b for a, b in both]))
        print(
            f"stored JPEGs, side {side}: ours {mine:.0f} us, bare {theirs:.0f} us, overhead {100 * (ratio - 1):.1f} %"
        )


if __name__ == "__main__":
    main()
