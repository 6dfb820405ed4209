"""What the tests of the join in cells share: vectors of every awkward kind, and a join pair by pair in float64."""

import numpy as np
from dedup_helpers import clustered

from siamdedup.dedup.cells import run
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.cells.scan import Members
from siamdedup.dedup.join import TOLERANCE

KINDS = (
    "clustered", "copies", "uniform", "line", "circle", "arc", "antipodal", "equal", "bisector", "one-hot", "lattice",
    "scaled", "narrow cone",
)  # fmt: skip


def drawn(kind, n, dim, seed, dtype=np.float32):
    """(n, dim) vectors without a zero row, as ``dtype``; norms other than 1 where ``kind`` has a reason for it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim)) + 1e-3
    axis = np.eye(dim)
    if kind in ("clustered", "copies"):
        x = clustered(n, dim, seed=seed, dtype=np.float64)
        if kind == "copies":  # also of copies, scattered
            x = x[rng.integers(0, max(1, n // 3), n)]
    elif kind == "line":  # one direction, both ways
        x = x[:1] * rng.choice([-3.0, -1.0, 0.5, 1.0, 2.0], (n, 1))
    elif kind in ("circle", "arc"):
        angle = rng.uniform(0, 2 * np.pi if kind == "circle" else np.radians(80), n)
        x = np.cos(angle)[:, None] * axis[0] + np.sin(angle)[:, None] * axis[dim - 1] * (dim > 1)
        x += (np.abs(x).max(1, keepdims=True) < 1e-3) * axis[0]
    elif kind == "antipodal":
        x = x[rng.integers(0, max(1, n // 4), n)] * rng.choice([-1, 1], (n, 1)) + 1e-3 * x
    elif kind == "equal":
        x = np.repeat(x[:1], n, axis=0)
    elif kind == "bisector":  # two tight clusters at both sides of the plane between two crowds
        crowd = axis[0] + np.sign(rng.standard_normal((n, 1))) * 0.8 * axis[dim - 1] + 0.01 * x
        middle = axis[0] + rng.choice([-1e-4, 1e-4], (n, 1)) * axis[dim - 1] + 1e-5 * x
        x = np.where(rng.random((n, 1)) < 0.6, crowd, middle)
    elif kind == "one-hot":
        x = axis[rng.integers(0, dim, n)]
    elif kind == "lattice":  # cosines of a few values: ties at the threshold
        x = rng.integers(-1, 2, (n, dim)).astype(float)
        x[(x == 0).all(1)] = axis[0]
    elif kind == "scaled":
        x *= 10.0 ** rng.integers(-1, 3, (n, 1))
    elif kind == "narrow cone":
        x = 5 * axis[0] + 0.3 * x
    x[(x.astype(dtype) == 0).all(1)] = axis[0]
    return x.astype(dtype)


def unit64(vectors):
    x = np.asarray(vectors, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosines(vectors):
    x = unit64(vectors)
    return x @ x.T


def assert_exact(pairs, vectors, threshold):
    """All pairs and only those, each once, sorted. Within 1e-12 of the cut the order of summation may decide."""
    cosine, n = cosines(vectors), len(vectors)
    least, upper = threshold - TOLERANCE, np.triu(np.ones((n, n), bool), 1)
    got = np.zeros((n, n), bool)
    got[pairs.left, pairs.right] = True
    missed, wrong = upper & (cosine >= least + 1e-12) & ~got, got & ~(upper & (cosine >= least - 1e-12))
    assert not missed.any(), np.argwhere(missed)[:5]
    assert not wrong.any(), np.argwhere(wrong)[:5]
    assert_sorted(pairs, n)
    near = np.clip(cosine[pairs.left, pairs.right], -1, 1)
    np.testing.assert_allclose(pairs.similarity, near, rtol=0, atol=1.2e-7)
    assert (pairs.left.dtype, pairs.right.dtype, pairs.similarity.dtype) == (np.int64, np.int64, np.float32)


def assert_sorted(pairs, n):
    assert (pairs.left < pairs.right).all()
    assert (np.diff(np.asarray(pairs.left) * n + pairs.right) > 0).all()


def values(pairs):
    columns = pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist()
    return {(a, b): s for a, b, s in zip(*columns, strict=True)}


def planted(n=4000, dim=32, copies=300, seed=0, dtype=np.float16):
    """Clustered vectors; the last ``copies`` rows are the first ones turned to a cosine of 0.999, 0.97, 0.93 or 0.88.

    Returns (vectors, cosine that each copy was given).
    """
    x = clustered(n, dim, seed=seed, spread=0.35, dtype=np.float64)
    rng = np.random.default_rng(seed + 1)
    cosine = rng.choice([0.999, 0.97, 0.93, 0.88], copies)
    aside = rng.standard_normal((copies, dim))
    aside -= (aside * x[:copies]).sum(1, keepdims=True) * x[:copies]
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    x[-copies:] = cosine[:, None] * x[:copies] + np.sqrt(1 - cosine**2)[:, None] * aside
    return x.astype(dtype), cosine


# A join in a folder, in many small parts.
RESULT = ("left.npy", "right.npy", "similarity.npy")
VECTORS = planted(1200, seed=5)[0]
VECTORS[100:130] = VECTORS[100]  # a few copies


def split_in_many(monkeypatch):
    chunks = Members.chunks
    monkeypatch.setattr(run, "BLOCK", 200)
    monkeypatch.setattr(Members, "chunks", lambda self, most, scores: chunks(self, most, 1500))


def plan(folder, **options):
    return CellJoin(
        **{"target_recall": 0.95, "cells": 40, "recall_sample": 200, "work_dir": str(folder), **options}
    )


def join(folder, progress=None, **options):
    return plan(folder, **options).self_join(VECTORS, 0.8, progress)


def parts(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npz")}


def content(folder):
    return {name: (folder / name).read_bytes() for name in RESULT}
