"""Mutated picture files against `decode`: no crash, no hang, no foreign exception, memory in bounds.

    python benchmarks/fuzz_images.py [--count 20000] [--seed 0] [--workers 2] [--save outputs/fuzz]

Seeds of every format and mode (64 to 300 px, from SIAMDEDUP_DATA's photographs, drawn where there are none) are
mutated, and each is decoded four times in a process of its own (whole and scaled, both policies for truncated
files). The outcome must be uint8 RGB within ``max_side``, or an ImageError of a known kind. Anything else is a
failure: its file is saved and printed. The table counts decoded files, refusals by kind and failures per format,
with the slowest file, the peak memory of a process and the lines that libraries printed to stderr.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HANG_SECONDS = 10
MAX_RSS_GB = (
    4.0  # a picture of MAX_PIXELS pixels, in Pillow's four bytes a pixel, its frame buffer, and as RGB
)
SIDE = 48
KINDS = ("not a picture", "truncated", "too large", "unsupported", "damaged")
EXTREMES = (0, 1, 2, 255, 256, 32767, 32768, 65500, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def pictures(count: int, rng: np.random.Generator) -> list[Image.Image]:
    """RGB pictures of 64 to 300 px."""
    here = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SIAMDEDUP_DATA", here)) / "photos"
    files = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    found = []
    for k in range(count):
        width, height = (int(v) for v in rng.integers(64, 301, 2))
        if files:
            image = Image.open(files[int(rng.integers(len(files)))]).convert("RGB")
        else:
            coarse = rng.integers(0, 256, (8 + k % 5, 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse)
        found.append(image.resize((width, height), Image.Resampling.BICUBIC))
    return found


def seeds(seed: int) -> list[tuple[str, bytes]]:
    """(format, bytes) in many modes."""
    rng = np.random.default_rng([seed, 1])
    made = []

    def add(form: str, image: Image.Image, **options: Any) -> None:
        out = BytesIO()
        image.save(out, form, **options)
        made.append((form, out.getvalue()))

    exif = Image.Exif()
    exif[0x0112] = 6
    for image in pictures(3, rng):
        grey, rgba = image.convert("L"), image.copy()
        rgba.putalpha(grey)
        wide = Image.fromarray(np.asarray(grey, np.uint16) * 257)
        palette, frames = image.quantize(32), [image.rotate(90 * k) for k in range(3)]
        for mode in (image, grey, image.convert("CMYK")):
            add("JPEG", mode, quality=80)
        add("JPEG", image, progressive=True, exif=exif)
        add("JPEG", image, quality=90, subsampling=0, restart_marker_blocks=4)
        for mode in (image, grey, rgba, rgba.convert("LA"), palette, image.convert("1"), wide):
            add("PNG", mode)
        add("PNG", image, exif=exif)
        add("PNG", palette, transparency=3)
        for options in ({}, {"lossless": True}, {"exif": exif}):
            add("WEBP", image, **options)
        add("WEBP", rgba)
        add("WEBP", frames[0], save_all=True, append_images=frames[1:])
        for mode in (image, rgba, grey):
            add("AVIF", mode, speed=10)
        add("AVIF", image, speed=10, exif=exif)
        add("GIF", palette)
        add("GIF", palette, transparency=1, interlace=1)
        add("GIF", frames[0].quantize(16), save_all=True, append_images=[f.quantize(16) for f in frames[1:]])
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
            add("TIFF", image, compression=compression)
        for mode in (grey, wide, image.convert("CMYK"), rgba, palette, image.convert("LAB")):
            add("TIFF", mode)
        add("TIFF", Image.fromarray(np.asarray(grey, np.float32) / 255), compression="tiff_lzw")
        add("TIFF", image.convert("1"), compression="group4")
        for mode in (image, grey, palette, image.convert("1"), rgba):
            add("BMP", mode)
    return made


def mutate(data: bytes, form: str, others: list[tuple[str, bytes]], rng: np.random.Generator) -> bytes:
    """One to three mutations; a PNG's checksums are set right again half of the time, so that parsers see them."""
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        data = _mutation(bytearray(data), form, others, rng)
    return _with_checksums(data) if form == "PNG" and rng.random() < 0.5 else data


def _mutation(b: bytearray, form: str, others: list[tuple[str, bytes]], rng: np.random.Generator) -> bytes:
    size = max(1, len(b))
    at = int(rng.integers(size) if rng.random() < 0.6 else rng.integers(min(size, 200)))
    run = int(rng.integers(1, 65))
    kind = int(rng.integers(9))
    if kind == 0:  # bit flips
        for place in rng.integers(0, size, int(rng.integers(1, 20))):
            b[place : place + 1] = bytes([(b[place] if len(b) else 0) ^ 1 << int(rng.integers(8))])
    elif kind == 1:  # random bytes
        b[at : at + run] = rng.bytes(run)
    elif kind == 2:
        del b[at:]
    elif kind == 3:  # the tail of another file
        other = others[int(rng.integers(len(others)))][1]
        b[at:] = other[int(rng.integers(len(other))) :]
    elif kind == 4:  # an extreme number anywhere, mostly in the header
        value, width = EXTREMES[int(rng.integers(len(EXTREMES)))], int(rng.choice([1, 2, 4]))
        number = (value % 256**width).to_bytes(width, "little" if rng.random() < 0.5 else "big")
        b[at : at + width] = number
    elif kind == 5:  # a part twice, or often
        part = bytes(b[at : at + 8 * run])
        b[at:at] = part * int(rng.choice([1, 2, 200]))
    elif kind == 6:
        b[at : at + 8 * run] = bytes(len(b[at : at + 8 * run]))
    elif kind == 7:
        del b[at : at + run]
    else:
        _extreme_size(b, form, rng)
    return bytes(b)


def _extreme_size(b: bytearray, form: str, rng: np.random.Generator) -> None:
    """Width or height where the format keeps it."""
    value = EXTREMES[int(rng.integers(len(EXTREMES)))]
    axis = int(rng.integers(2))
    if form == "JPEG":
        at = next((k for k in range(len(b) - 9) if b[k] == 255 and b[k + 1] in (0xC0, 0xC1, 0xC2)), None)
        if at is not None:
            b[at + 5 + 2 * axis : at + 7 + 2 * axis] = (value % 65536).to_bytes(2, "big")
    elif form == "PNG":
        b[16 + 4 * axis : 20 + 4 * axis] = value.to_bytes(4, "big")
    elif form == "GIF":
        b[6 + 2 * axis : 8 + 2 * axis] = (value % 65536).to_bytes(2, "little")
    elif form == "BMP":
        b[18 + 4 * axis : 22 + 4 * axis] = value.to_bytes(4, "little")
    elif form == "WEBP":
        at = 24 + 3 * axis if b[12:16] == b"VP8X" else 26 + 2 * axis
        width = 3 if b[12:16] == b"VP8X" else 2
        b[at : at + width] = (value % 256**width).to_bytes(width, "little")
    elif form == "AVIF" and (at := b.find(b"ispe")) > 0:
        b[at + 8 + 4 * axis : at + 12 + 4 * axis] = value.to_bytes(4, "big")
    elif form == "TIFF" and len(b) > 8:
        start = struct.unpack_from("<I", b, 4)[0]
        at = start + 2 + 12 * int(rng.integers(14)) + int(rng.choice([2, 4, 8]))
        b[at : at + 4] = value.to_bytes(4, "little")


def _with_checksums(data: bytes) -> bytes:
    b, at = bytearray(data), 8
    while at + 12 <= len(b):
        stop = at + 8 + int.from_bytes(b[at : at + 4], "big")
        if stop + 4 > len(b):
            break
        b[stop : stop + 4] = zlib.crc32(b[at + 4 : stop]).to_bytes(4, "big")
        at = stop + 4
    return bytes(b)


def case(number: int, seed: int, sources: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    rng = np.random.default_rng([seed, 2, number])
    form, data = sources[number % len(sources)]
    return form, mutate(data, form, sources, rng)


def outcome(data: bytes) -> str:
    """Of the strict decode: "decoded", or the kind of refusal; a failure starts with "!"."""
    from siamdedup.catalog.images import decode
    from siamdedup.errors import ImageError

    said = ""
    for policy in ("reject", "accept"):
        for side in (None, SIDE):
            try:
                pixels = decode(data, max_side=side, truncated=policy)
                result = "decoded"
                if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                    return f"! {pixels.dtype} {pixels.shape}"
                if side is not None and max(pixels.shape[:2]) > side:
                    return f"! {pixels.shape} at max_side={side}"
            except ImageError as error:
                result = error.problem.split(":")[0]
                if result not in KINDS:
                    return f"! unknown kind: {error.problem}"
            except Exception as error:
                return f"! {type(error).__name__}: {error}"
            said = said or result
    return said


def serve() -> None:
    """Decode what comes in, one at a time: length and bytes in; outcome, CPU seconds and peak GB out."""
    from siamdedup.catalog import images  # noqa: F401  (loaded before the first clock starts)

    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while head := source.read(8):
        data = source.read(struct.unpack("<Q", head)[0])
        start = time.process_time()
        said = outcome(data)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        reply = pickle.dumps((said, time.process_time() - start, peak))
        sink.write(struct.pack("<Q", len(reply)) + reply)
        sink.flush()


class Worker:
    """A decoding process that is replaced when it dies, hangs or grows."""

    def __init__(self, log: Any) -> None:
        self.log, self.process = log, None

    def __call__(self, data: bytes) -> tuple[str, float, float]:
        if self.process is None:
            command = [sys.executable, __file__, "--serve"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log
            )
        process = self.process
        try:
            process.stdin.write(struct.pack("<Q", len(data)) + data)
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 4 * HANG_SECONDS + 5)
            if not ready:
                self.close()
                return "! hang", 4.0 * HANG_SECONDS, 0.0
            head = process.stdout.read(8)
            said, seconds, peak = pickle.loads(process.stdout.read(struct.unpack("<Q", head)[0]))
        except (BrokenPipeError, struct.error, EOFError):
            code = process.wait()
            self.process = None
            return f"! process died with {code}", 0.0, 0.0
        if seconds > HANG_SECONDS:  # four decodes together
            said = f"! {seconds:.1f} CPU-s"
        if peak > MAX_RSS_GB:
            said = f"! {peak:.1f} GB"
        if peak > MAX_RSS_GB / 2:
            self.close()  # the peak of a process never falls: begin anew, so that the next large file is seen too
        return said, seconds, peak

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def fuzz(count: int, seed: int, workers: int, save: Path | None = None) -> dict[str, Any]:
    """Counts per format and outcome, failures, the slowest file (CPU seconds, format, number), peak GB, stderr lines."""
    sources = seeds(seed)
    counts: dict[str, Counter[str]] = {form: Counter() for form, _ in sources}
    failures, slowest, peak = [], (0.0, "", 0), 0.0
    with tempfile.TemporaryFile() as log:

        def share(first: int) -> list[tuple[int, str, str, float, float]]:
            worker, found = Worker(log), []
            for number in range(first, count, workers):
                form, data = case(number, seed, sources)
                found.append((number, form, *worker(data)))
                if number % 2000 < workers:
                    print(f"  {number} of {count}", file=sys.stderr, flush=True)
            worker.close()
            return found

        with ThreadPoolExecutor(workers) as pool:
            results = [row for rows in pool.map(share, range(workers)) for row in rows]
        log.seek(0)
        chatter = Counter(line.decode(errors="replace").strip()[:80] for line in log)
    for number, form, said, seconds, gigabytes in sorted(results):
        counts[form][said if not said.startswith("!") else "failures"] += 1
        slowest, peak = max(slowest, (seconds, form, number)), max(peak, gigabytes)
        if said.startswith("!"):
            failures.append((number, form, said))
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                (save / f"{seed}-{number}.{form.lower()}").write_bytes(case(number, seed, sources)[1])
    return {"counts": counts, "failures": failures, "slowest": slowest, "peak": peak, "stderr": chatter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", type=Path, default=Path("outputs/fuzz"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    start = time.perf_counter()
    found = fuzz(options.count, options.seed, options.workers, options.save)
    columns = ["decoded", *KINDS, "failures"]
    print("format  " + "".join(f"{name:>15}" for name in columns))
    total: Counter[str] = Counter()
    for form, counter in found["counts"].items():
        total += counter
        print(f"{form:8}" + "".join(f"{counter[name]:15,}" for name in columns))
    print(f"{'all':8}" + "".join(f"{total[name]:15,}" for name in columns))
    seconds, form, number = found["slowest"]
    print(
        f"slowest: {form} {number}, {seconds:.2f} CPU-s for four decodes; peak memory {found['peak']:.2f} GB a process"
    )
    print(
        f"{options.count:,} files in {time.perf_counter() - start:.0f} s; lines on stderr: {found['stderr'].total()}"
    )
    for line, times in found["stderr"].most_common(8):
        print(f"    {times:6} x {line}")
    for number, form, said in found["failures"]:
        print(f"FAILURE {form} {number}: {said}")
    raise SystemExit(1 if found["failures"] else 0)


if __name__ == "__main__":
    main()
