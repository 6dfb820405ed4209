"""``artefacts.npz``: what a report draws of a run and its figures do not tell. Compact, and without the catalogue.

The same run gives the same bytes. Curves are counts (true and false matches) at chosen thresholds, so that every
rate follows exactly; where non-matching pairs were not all held, they end above ``ScoredPairs.floor``.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamdedup.errors import OperatingPointError
from siamdedup.files import atomic_write
from siamdedup.report.gallery import thumbnail
from siamdedup.report.runs.embedding_map import lay_out, sample_families
from siamdedup.types import Catalog, FloatArray, IntArray, ScoredPairs
from siamdedup.verification import rates
from siamdedup.verification.distances import Float64Array, to_distance, to_similarity
from siamdedup.verification.pairs import ImageTruth

FILE, OURS = "artefacts.npz", "siamdedup"
VERSION = 1
BINS = 60  # of the distance histograms
ERRORS = 12  # pairs of each kind
_CELLS, _MOST_POINTS = 320, 500  # a curve's points: what a plot of so many cells tells apart
_LINKS = 400  # matching pairs that the map joins
_SIDE = 112  # pixels of a thumbnail


@dataclass(frozen=True)
class CurvePoints:
    """Counts at thresholds from the strictest on: accepting similarity >= ``similarity`` has these matches."""

    similarity: Float64Array
    tp: IntArray
    fp: IntArray
    n_match: int
    n_nonmatch: int
    complete: bool

    @property
    def fmr(self) -> Float64Array:
        return self.fp / self.n_nonmatch

    @property
    def recall(self) -> Float64Array:
        return self.tp / self.n_match

    @property
    def precision(self) -> Float64Array:
        return self.tp / (self.tp + self.fp)


@dataclass(frozen=True)
class Artefacts:
    """What ``artefacts.npz`` holds.

    Attributes:
        curves: by method; ``left_out`` says of a method why it has none.
        facts: distance, threshold, how the map was made, and the like.
        arrays: histogram (``edges``, ``matching``, ``non_matching``), map (``xy`` (n, 2), ``family`` (n,), ``links``
            (m, 2), ``found`` (m,)).
        errors: by kind ("non_matching", "matching"), the worst first: distance, the two paths, their thumbnails
            (JPEG bytes, empty where the picture cannot be read).
    """

    curves: dict[str, CurvePoints]
    left_out: dict[str, str]
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    errors: dict[str, list[dict[str, Any]]]


def write_artefacts(
    out: Path,
    *,
    pairs: Mapping[str, ScoredPairs],
    threshold: float | None,
    distance: str,
    vectors: FloatArray,
    rows: IntArray,
    truth: ImageTruth,
    catalog: Catalog,
) -> None:
    """Write ``out/artefacts.npz``, atomically, with the same bytes for the same run.

    Args:
        pairs: scored test pairs by method; "siamdedup" is the trained one, of which histogram, map and errors are.
            ``left`` and ``right`` of it are positions in ``vectors``.
        threshold: the frozen threshold, a distance; None where none could be chosen.
        distance: the unit of the threshold, one of ``distances``.
        vectors: float (n, d), the test embeddings.
        rows: int64 (n,), the picture of each.
        truth: of the test split; pictures of its gallery are not on the map.
        catalog: of the test split, to read pictures for thumbnails from.

    Raises:
        ValueError: shapes that do not fit, NaN among the similarities.
    """
    if len(vectors) != len(rows):
        raise ValueError(f"{len(vectors)} vectors need as many image rows, not {len(rows)}")
    curves, left_out = {}, {}
    for method, scored in sorted(pairs.items()):
        try:
            curves[method] = curve_points(scored, threshold if method == OURS else None, distance)
        except OperatingPointError as error:
            left_out[method] = error.problem
    facts: dict[str, Any] = {
        "version": VERSION, "distance": distance, "threshold": threshold, "left_out": left_out,
        "curves": {m: [c.n_match, c.n_nonmatch, c.complete] for m, c in curves.items()},
    }  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    for k, curve in enumerate(curves.values()):
        arrays[f"curve{k}"] = np.stack([curve.similarity, curve.tp, curve.fp])
    if OURS in curves:
        arrays |= _histogram(pairs[OURS], distance, facts)
        arrays |= _errors(pairs[OURS], distance, rows, truth, catalog, facts)
    ours = pairs[OURS] if OURS in curves else None
    arrays |= _map(vectors, rows, truth, catalog, ours, threshold, distance, facts)
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, allow_nan=False)
    arrays["facts"] = np.frombuffer(text.encode(), np.uint8)
    with atomic_write(Path(out) / FILE) as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # no date of its own
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(entry, content.getvalue())


def curve_points(pairs: ScoredPairs, threshold: float | None, distance: str) -> CurvePoints:
    """The curve at the thresholds that ROC, DET and PR plots can tell apart, and at the frozen one.

    OperatingPointError as of ``rates.curve``: no matching or no non-matching pair.
    """
    curve = rates.curve(pairs)
    n_match, n_nonmatch = curve.n_match, curve.n_nonmatch
    fmr = np.log10(np.maximum(curve.fp, 0.5) / n_nonmatch)
    position = np.stack([fmr / -np.log10(0.5 / n_nonmatch), curve.tp / n_match, curve.precision])
    cells = float(_CELLS)
    while True:
        cell = np.round(position * cells)
        keep = np.append(True, (np.diff(cell) != 0).any(0)) if cell.shape[1] else np.zeros(0, bool)
        if keep.sum() <= _MOST_POINTS or cells < 2:
            break
        cells /= 1.3
    keep[-1:] = True
    if threshold is not None:
        within = np.flatnonzero(curve.closeness >= float(to_similarity(threshold, distance)))
        keep[within[-1:]] = True
    return CurvePoints(
        curve.closeness[keep], curve.tp[keep], curve.fp[keep], n_match, n_nonmatch, pairs.floor == -np.inf
    )


def _histogram(pairs: ScoredPairs, distance: str, facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Pairs by distance; non-matching ones beyond ``facts["known_to"]`` were not held and are not counted."""
    away = to_distance(pairs.similarity, distance)
    edges = np.linspace(0, max(float(away[np.isfinite(away)].max(initial=0.0)), 1e-6), BINS + 1)
    known_to = None if pairs.floor == -np.inf else float(to_distance(pairs.floor, distance))
    facts["histogram"] = {"n_match": pairs.n_match, "n_nonmatch": pairs.n_nonmatch, "known_to": known_to}
    matching, _ = np.histogram(away[pairs.is_match], edges)
    other, _ = np.histogram(away[~pairs.is_match], edges)
    return {"edges": edges, "matching": matching.astype(np.int64), "non_matching": other.astype(np.int64)}


def _map(
    vectors: FloatArray, rows: IntArray, truth: ImageTruth, catalog: Catalog, pairs: ScoredPairs | None,
    threshold: float | None, distance: str, facts: dict[str, Any],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Held-out pictures (not the gallery) in the plane, their families, and the matching pairs between them."""
    asking = np.flatnonzero(~truth.gallery[rows])
    shown = asking[sample_families(truth.component[rows[asking]])]
    layout = lay_out(vectors[shown])
    components, family = np.unique(truth.component[rows[shown]], return_inverse=True)
    links, found, n_links = np.empty((0, 2), np.int32), np.empty(0, np.bool_), 0
    if pairs is not None:
        place = np.full(len(rows), -1, np.int64)
        place[shown] = np.arange(len(shown))
        between = np.stack([place[pairs.left], place[pairs.right]], 1)
        of = np.flatnonzero(pairs.is_match & (between >= 0).all(1))
        n_links = len(of)
        of = np.sort(np.random.default_rng(0).permutation(of)[:_LINKS])
        links = between[of].astype(np.int32)
        away = to_distance(pairs.similarity[of], distance)
        found = away <= threshold if threshold is not None else np.zeros(len(of), np.bool_)
    facts["map"] = {
        "how": layout.how, "shown": len(shown), "of": len(asking), "links": n_links,
        "families": _family_names(catalog, truth, components),
    }  # fmt: skip
    return {"xy": layout.xy, "family": family.astype(np.int32), "links": links, "found": found}


def _family_names(catalog: Catalog, truth: ImageTruth, components: IntArray) -> list[str]:
    """The first family name of each true family: relisted ones go by several."""
    named: dict[int, str] = {}
    entry = catalog.product_of_entry()
    for product, image in zip(entry.tolist(), catalog.image_index.tolist(), strict=True):
        component, name = int(truth.component[image]), catalog.families[product].as_py()
        named[component] = min(named.get(component, name), name)
    return [named.get(c, "") for c in components.tolist()]


def _errors(
    pairs: ScoredPairs,
    distance: str,
    rows: IntArray,
    truth: ImageTruth,
    catalog: Catalog,
    facts: dict[str, Any],
) -> dict[str, np.ndarray]:
    """The worst pairs of each kind, one for each pair of true families, with thumbnails."""
    made: dict[int, str] = {}
    pictures: list[bytes] = []
    listed: dict[str, list[dict[str, Any]]] = {}
    for kind, match in (("non_matching", False), ("matching", True)):
        of = np.flatnonzero(pairs.is_match == match)
        similarity = pairs.similarity[of]
        of = of[np.lexsort((pairs.right[of], pairs.left[of], similarity if match else -similarity))]
        listed[kind] = []
        for k in _first_of_each(truth.component[rows[np.stack([pairs.left[of], pairs.right[of]], 1)]]):
            two = int(rows[pairs.left[of[k]]]), int(rows[pairs.right[of[k]]])
            listed[kind].append(
                {
                    "distance": float(np.nan_to_num(to_distance(float(pairs.similarity[of[k]]), distance))),
                    "paths": [catalog.image_paths[row].as_py() for row in two],
                }
            )
            for row in two:
                uri = thumbnail(catalog, row, made, side=_SIDE, quality=72)
                pictures.append(base64.b64decode(uri.partition(",")[2]))
    facts["errors"] = listed
    lengths = np.array([len(p) for p in pictures], np.int64)
    return {"jpeg": np.frombuffer(b"".join(pictures), np.uint8), "jpeg_bytes": lengths}


def _first_of_each(families: IntArray) -> list[int]:
    """Positions of the first pair of each of the first ``ERRORS`` different unordered pairs of families (n, 2)."""
    seen: dict[tuple[int, int], int] = {}
    for k, (a, b) in enumerate(families):
        seen.setdefault((min(a, b), max(a, b)), k)
        if len(seen) == ERRORS:
            break
    return list(seen.values())


def read_artefacts(path: Path) -> Artefacts:
    """Read what :func:`write_artefacts` wrote. ValueError where the file is damaged or of another version."""
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        version = facts["version"]
        curves, errors = _read_curves(facts, arrays), _read_errors(facts, arrays)
        lacking = {"distance", "threshold", "left_out", "map"} - set(facts)
        lacking |= {"how", "shown", "of", "links", "families"} - set(facts["map"])
        lacking |= {"xy", "family", "links", "found"} - set(arrays)
        if lacking:
            raise KeyError(", ".join(sorted(lacking)))
    except Exception as error:  # whatever a damaged archive, array or JSON raises
        raise ValueError(f"{path.name} is damaged: {type(error).__name__}: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path.name} is of version {version}, not {VERSION}")
    return Artefacts(curves, facts["left_out"], facts, arrays, errors)


def _read_curves(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, CurvePoints]:
    curves = {}
    for k, (method, (n_match, n_nonmatch, complete)) in enumerate(facts["curves"].items()):
        similarity, tp, fp = arrays.pop(f"curve{k}")
        counts = tp.astype(np.int64), fp.astype(np.int64)
        curves[method] = CurvePoints(similarity, *counts, n_match, n_nonmatch, complete)
    return curves


def _read_errors(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    if "errors" not in facts:
        return {}
    blob, ends = arrays.pop("jpeg").tobytes(), np.cumsum(arrays.pop("jpeg_bytes")).tolist()
    pictures = [blob[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
    listed: dict[str, list[dict[str, Any]]] = facts["errors"]
    for pair in (pair for kind in ("non_matching", "matching") for pair in listed[kind]):
        pair["pictures"] = [pictures.pop(0), pictures.pop(0)]
    return listed
