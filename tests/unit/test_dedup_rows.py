"""Rows of a mapped file are read from it."""

import os

import numpy as np
import pytest

from siamdedup.dedup.rows import take
from siamdedup.errors import SiamdedupError


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_taken_from_a_file_are_those_of_its_mapping(tmp_path, dtype):
    """In any order, more than once, side by side and apart."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 7)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    for rows in (
        np.arange(0),
        np.array([499]),
        np.arange(500),
        np.arange(500)[::-1],
        rng.integers(0, 500, 2000),
        np.sort(rng.choice(500, 90, replace=False)),
        np.array([3, 4, 5, 9, 9, 10, 2]),
    ):
        got = take(stored, rows)
        np.testing.assert_array_equal(got, x[rows])
        assert got.dtype == dtype
        assert len(rows) == 0 or not isinstance(got, np.memmap)
        np.testing.assert_array_equal(take(stored[100:], rows // 2), x[100:][rows // 2])
        np.testing.assert_array_equal(take(x, rows), x[rows])


def test_rows_of_a_file_that_was_cut_short(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((500, 64), np.float32))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    os.truncate(tmp_path / "x.npy", 50_000)
    with pytest.raises(SiamdedupError, match="was cut short"):
        take(stored, np.array([1, 450]))
