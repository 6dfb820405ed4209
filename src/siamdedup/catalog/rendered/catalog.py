"""Render the embedded catalogue to a folder, all or nothing."""

from __future__ import annotations

import csv
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from siamdedup.catalog.rendered.design import Design
from siamdedup.catalog.rendered.plan import Product, make_plan
from siamdedup.catalog.rendered.products import build
from siamdedup.catalog.rendered.scene import Shot, pack, photograph
from siamdedup.catalog.rendered.textures import Rgb
from siamdedup.cores import cores

RENDER_VERSION = 2
FAMILIES = 86
JPEG_QUALITY = 88

Job = tuple[Design, tuple[Rgb, Rgb, Rgb], list[Shot], list[str]]


def _quiet_threads() -> None:
    cv2.setNumThreads(1)  # one process a core already


def _render_jobs(folder: str, jobs: Sequence[Job], size: int) -> int:
    """Draw some products into folder; the number of pictures written."""
    done = 0
    for design, colours, shots, files in jobs:
        packed = pack(build(design, colours)[0])
        for shot, name in zip(shots, files, strict=True):
            picture = photograph(packed, shot, size)
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
            _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
            (Path(folder) / name).write_bytes(data.tobytes())
            done += 1
    return done


def _warm_up() -> None:
    """Compile the kernels once, so that the workers find them in numba's cache."""
    photograph(pack(build(Design("candle", 0, 0, 5), ((0.5,) * 3, (0.9,) * 3, (0.2,) * 3))[0]), Shot(), 32)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_tables(folder: Path, products: Sequence[Product]) -> None:
    _write_csv(
        folder / "catalog.csv", ("productId", "title", "imageUrlStr", "productFamily"),
        ((p.product_id, p.title, ";".join(p.files), p.family) for p in products),
    )  # fmt: skip
    _write_csv(
        folder / "truth.csv", ("productId", "relistedFrom", "level"),
        ((p.product_id, p.relisted_from.product_id, p.level) for p in products if p.relisted_from),
    )  # fmt: skip
    _write_csv(
        folder / "lookalikes.csv", ("productId", "lookalikeOf"),
        ((p.product_id, p.lookalike_of.product_id) for p in products if p.lookalike_of),
    )  # fmt: skip


def _identity(seed: int, size: int, families: int) -> dict[str, int]:
    return {"version": RENDER_VERSION, "seed": seed, "size": size, "designs": families}


def _recorded(out: Path) -> dict[str, int] | None:
    """What render.json says about a finished render in `out`; None where there is none."""
    try:
        data = json.loads((out / "render.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _render_all(folder: Path, products: Sequence[Product], size: int, workers: int, progress: bool) -> None:
    jobs: list[Job] = [(p.design, p.colours, p.shots, p.files) for p in products]
    chunks = [jobs[i : i + 3] for i in range(0, len(jobs), 3)]
    columns = (
        TextColumn("rendering the catalogue"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("", total=sum(len(p.files) for p in products))
        if workers == 1:
            for chunk in chunks:
                bar.advance(task, _render_jobs(str(folder), chunk, size))
            return
        _warm_up()
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_quiet_threads) as pool:
            pending = [pool.submit(_render_jobs, str(folder), chunk, size) for chunk in chunks]
            try:
                for future in as_completed(pending):
                    bar.advance(task, future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def render_catalog(
    out_dir: str | Path,
    *,
    seed: int = 0,
    size: int = 288,
    workers: int | None = None,
    progress: bool = True,
    families: int = FAMILIES,
) -> Path:
    """Draw the embedded product catalogue into out_dir and return it.

    Writes images/*.jpg (size x size), catalog.csv, truth.csv, lookalikes.csv and render.json. Equal seed, size and
    families give equal bytes, whatever the number of workers. A finished render of the same request is kept; a
    killed one leaves out_dir untouched. `families` counts the ordinary designs: relisted products and look-alikes
    come on top, in families of their own. Raises FileExistsError where out_dir holds something else.
    """
    out = Path(out_dir)
    identity = _identity(seed, size, families)
    found = _recorded(out)
    if found is not None and all(found.get(k) == v for k, v in identity.items()):
        return out
    if found is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists and is not a rendered catalogue; give another folder or remove it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    products = make_plan(seed, families)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        folder = work / "catalog"
        (folder / "images").mkdir(parents=True)
        count = max(1, min(workers or cores(), len(products)))
        _render_all(folder, products, size, count, progress)
        _write_tables(folder, products)
        counts = {
            "families": len({p.family for p in products}), "products": len(products),
            "images": sum(len(p.files) for p in products), "relisted": sum(bool(p.relisted_from) for p in products),
            "lookalikes": sum(bool(p.lookalike_of) for p in products),
        }  # fmt: skip
        (folder / "render.json").write_text(
            json.dumps({**identity, **counts}, indent=2) + "\n", encoding="utf-8"
        )
        if out.exists():
            out.rename(work / "previous")
        folder.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out
