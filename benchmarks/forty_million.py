"""Every duplicate among 40 million vectors on one machine: join, pairs of products, groups, JSON.

    python benchmarks/forty_million.py --folder BIG                  # draws the vectors (10 GB), then runs
    python benchmarks/forty_million.py --folder BIG --kill 2         # killed twice in mid-run, and resumed
    python benchmarks/forty_million.py --folder BIG --n 4000000      # smaller
    python benchmarks/forty_million.py --folder BIG --keep-work      # leave the work folder of the last run

**The vectors** (n, 128), float16, at unit norm: category (1,000 of them, of heavy-tailed sizes) + family (10 rows on
average, 0.9 as large) + own (0.7 as large). Each part is normal with a spectrum that falls as k^-0.75, turned by one
random rotation: the embeddings of a network have such spectra, and their effective dimension (participation ratio) is
some 44 of 128 here. A row's nearest neighbour has a cosine of about 0.84, so that there is no gap at the threshold.

- *Planted duplicates*: 2 % of the rows are another row turned to a cosine of 1, 0.99, 0.97, 0.95 or 0.92 (a fifth
  each) in a direction drawn from the same spectrum. Each is a product of a family of its own.
- *Look-alike families*: 2 % of the rows are in families of 20 to 200 whose own part is 0.25 as large: nearly all of
  their pairs pass the threshold, as the colours and sizes of one product do. Half of these families are one family of
  the catalogue, whose pairs must not be reported; the other half are two.

Threshold 0.9. Recall is of the exact join: of pairs that touch 1,000 random rows (other rows than those the join looks
at by itself), and of all planted pairs. Memory is the peak of the resident set, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

DIM, CATEGORIES, FAMILY, LOOKALIKE, PLANTED, THRESHOLD = 128, 1000, 10, 0.02, 0.02, 0.9
COSINES = (1.0, 0.99, 0.97, 0.95, 0.92)
BLOCK, SAMPLE, SAMPLE_SEED = 1 << 17, 1000, 1_000_003


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def draw(n: int, folder: Path) -> None:
    """Writes vectors.npy, labels.npy (the family of each row) and planted.npy (copy, source; int64 (k, 2))."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, DIM + 1) ** (-0.75 / 2)
    spectrum = (spectrum / np.sqrt((spectrum**2).sum())).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    category = rng.standard_normal((CATEGORIES, DIM), np.float32) * spectrum
    share = np.minimum(rng.zipf(1.3, CATEGORIES), 1000) * 1.0
    n_plain = round((1 - LOOKALIKE) * n / FAMILY)
    sizes = rng.integers(20, 201, round(LOOKALIKE * n / 110))
    n_families = n_plain + len(sizes)
    centre = np.empty((n_families, DIM), np.float16)
    of_category = rng.choice(CATEGORIES, n_families, p=share / share.sum())
    family = np.concatenate(
        [rng.integers(0, n_plain, max(0, n - sizes.sum())), np.repeat(np.arange(n_plain, n_families), sizes)]
    )
    family = rng.permutation(family.astype(np.int32))[:n]

    def families(lo: int) -> None:
        part = of_category[lo : lo + BLOCK]
        own = np.random.default_rng([1, lo]).standard_normal((len(part), DIM), np.float32)
        centre[lo : lo + BLOCK] = category[part] + 0.9 * own * spectrum

    out = np.lib.format.open_memmap(folder / "vectors.tmp.npy", "w+", np.float16, (n, DIM))

    def rows(lo: int) -> None:
        part = family[lo : lo + BLOCK]
        own = np.random.default_rng([2, lo]).standard_normal((len(part), DIM), np.float32) * spectrum
        own *= np.where(part < n_plain, np.float32(0.7), np.float32(0.25))[:, None]
        out[lo : lo + len(part)] = unit(centre[part] + own) @ rotation

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(families, range(0, n_families, BLOCK)))
        list(pool.map(rows, range(0, n, BLOCK)))
        chosen = rng.permutation(n)[: 2 * round(PLANTED * n)].reshape(2, -1)
        kind = np.resize(np.arange(len(COSINES)), chosen.shape[1])

        def plant(lo: int) -> None:
            source = unit(out[chosen[1, lo : lo + BLOCK]].astype(np.float32))
            aside = (
                np.random.default_rng([3, lo]).standard_normal(source.shape, np.float32) * spectrum @ rotation
            )
            aside = unit(aside - (aside * source).sum(1, keepdims=True) * source)
            cosine = np.float32(COSINES)[kind[lo : lo + BLOCK], None]
            turned = (cosine * source + np.sqrt(1 - cosine**2) * aside).astype(np.float16)
            out[chosen[0, lo : lo + BLOCK]] = np.where(cosine == 1, out[chosen[1, lo : lo + BLOCK]], turned)

        list(pool.map(plant, range(0, chosen.shape[1], BLOCK)))
    label = family.astype(np.int64)
    split = (
        (family >= n_plain) & (family % 2 == 1) & (np.arange(n) % 2 == 1)
    )  # half of the look-alike families are two
    label[split] += n_families
    label[chosen[0]] = 2 * n_families + np.arange(chosen.shape[1])
    np.save(folder / "labels.npy", np.unique(label, return_inverse=True)[1])
    np.savez(folder / "planted.npz", pairs=np.sort(chosen, axis=0).T, kind=kind)
    out.flush()
    os.replace(folder / "vectors.tmp.npy", folder / "vectors.npy")


def run(folder: Path, memory_gb: float) -> None:
    """The whole road, in this process; prints a line of JSON."""
    from siamdedup.dedup.cells.join import CellJoin
    from siamdedup.dedup.groups import duplicate_groups
    from siamdedup.dedup.output import write_duplicates_json
    from siamdedup.dedup.products import product_pairs
    from siamdedup.types import Catalog

    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - start, 1)
        print(f"{name}: {seconds[name]} s, peak {peak_gib():.2f} GiB", file=sys.stderr, flush=True)
        return result

    begun = time.perf_counter()
    shown, index = [begun], CellJoin(memory_gb=memory_gb, work_dir=str(folder / "work"))

    def progress(done: int, total: int) -> None:
        if time.perf_counter() - shown[0] > 10:
            shown[0] = time.perf_counter()
            line = f"  {done / total:.1%} {shown[0] - begun:.0f} s, {peak_gib():.2f} GiB"
            print(line, file=sys.stderr, flush=True)

    def joined() -> Any:
        return index.self_join(np.load(folder / "vectors.npy", mmap_mode="r"), THRESHOLD, progress)

    found = timed("join", joined)
    print(index.describe(), file=sys.stderr, flush=True)

    def catalog() -> Catalog:
        labels = np.load(folder / "labels.npy")
        n = len(labels)
        ids = numbered(n)
        every = np.arange(n + 1)
        return Catalog(ids, ids, labels, ids, every, every[:-1], Path("."))

    products = timed("catalogue", catalog)
    pairs = timed(
        "pairs of products", lambda: product_pairs(products, products.image_index, {"embedding": found})
    )
    groups = timed("groups", lambda: duplicate_groups(products, pairs))
    timed("JSON", lambda: write_duplicates_json(folder / "duplicates.json", products, pairs))
    print(json.dumps({
        "seconds": seconds, "wall": time.perf_counter() - begun, "peak GiB": peak_gib(), "picture pairs": len(found),
        "product pairs": len(pairs), "groups": groups.n_groups, "largest component": groups.largest_component,
        "chains prevented": groups.chains_prevented, "says": index.describe(), "recall": index.recall_,
        "JSON MB": (folder / "duplicates.json").stat().st_size / 1e6,
    }))  # fmt: skip


def numbered(n: int) -> pa.StringArray:
    """ "P00000000", "P00000001", ... without a Python object each."""
    text = np.empty((n, 9), np.uint8)
    text[:, 0] = ord("P")
    rest = np.arange(n)
    for column in range(8, 0, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, column] = digit + ord("0")
    offsets = np.arange(0, 9 * n + 1, 9, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))


def judge(folder: Path) -> dict[str, Any]:
    """Recall of what ``run`` left: on the planted pairs, and on pairs of the exact join that touch a sample of rows."""
    from siamdedup.dedup.cells.merge import open_pairs
    from siamdedup.dedup.join import exact_row_join, row_cosine

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    found, n = open_pairs(folder / "work"), len(vectors)
    planted = np.load(folder / "planted.npz")
    pairs, kind = planted["pairs"], planted["kind"]
    keys = found.left * n + found.right  # ascending

    def known(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        wanted = left * n + right
        return keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted

    rows = np.random.default_rng(SAMPLE_SEED).choice(n, min(SAMPLE, n), replace=False)
    truth = exact_row_join(vectors, rows, THRESHOLD)
    sampled = known(truth.left, truth.right)
    true = row_cosine(vectors, vectors, pairs[:, 0], pairs[:, 1]).numpy() >= THRESHOLD
    hit = known(pairs[:, 0], pairs[:, 1])
    return {
        "exact pairs sampled": len(truth), "of them found": float(sampled.mean()),
        "planted": int(true.sum()), "planted found": float(hit[true].mean()),
        **{f"planted at {c}": float(hit[true & (kind == k)].mean()) for k, c in enumerate(COSINES)},
    }  # fmt: skip


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="12 GB of vectors and 5 GB of work")
    parser.add_argument("--n", type=int, default=40_000_000)
    parser.add_argument("--memory-gb", type=float, default=12.0)
    parser.add_argument("--kill", type=int, default=0, help="SIGKILL this often in mid-run, and resume")
    parser.add_argument("--kill-after", type=float, nargs="*", default=[], help="seconds after each start")
    parser.add_argument("--keep-work", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder / f"{options.n}"
    folder.mkdir(parents=True, exist_ok=True)
    if options.child:
        run(folder, options.memory_gb)
        return
    if not (folder / "vectors.npy").exists():
        start = time.perf_counter()
        draw(options.n, folder)
        print(f"drawn in {time.perf_counter() - start:.0f} s")
    shutil.rmtree(folder / "work", ignore_errors=True)
    command = [sys.executable, __file__, "--folder", str(options.folder), "--n", str(options.n), "--child"]
    command += ["--memory-gb", str(options.memory_gb)]
    started, spent = time.perf_counter(), []
    for k in range(options.kill):
        after = options.kill_after[k] if k < len(options.kill_after) else 60.0
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            child.wait(after)
            sys.exit("the run ended before it could be killed: choose --kill-after")
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        spent.append(time.perf_counter() - begun)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall = time.perf_counter() - started
    measured = json.loads(done.stdout.splitlines()[-1])
    seconds = measured.pop("seconds")
    title = f"{options.n:,} x {DIM}, {platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    table = Table("", "", title=title)
    table.columns[1].justify = "right"
    for name, value in {**{f"{k}, s": v for k, v in seconds.items()}, **measured, **judge(folder)}.items():
        shown = (
            value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
        )
        table.add_row(name, shown)
    if spent:
        table.add_row("killed after, s", ", ".join(f"{s:.0f}" for s in spent))
    table.add_row("wall of all, s", f"{wall:,.1f}")
    Console(width=150).print(table)
    if not options.keep_work:
        shutil.rmtree(folder / "work", ignore_errors=True)


if __name__ == "__main__":
    main()
