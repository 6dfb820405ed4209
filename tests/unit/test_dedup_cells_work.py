"""A join that is killed goes on where it was; one of other vectors or settings starts anew."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cells_helpers import VECTORS, content, join, parts, plan, split_in_many
from dedup_helpers import assert_same_pairs

from siamdedup.dedup.cells import run
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.cells.merge import open_pairs
from siamdedup.dedup.cells.scan import scan
from siamdedup.dedup.cells.work import Work, disk_errors
from siamdedup.errors import SiamdedupError


@pytest.fixture(autouse=True)
def _many_small_parts(monkeypatch):
    split_in_many(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        split_in_many(monkeypatch)
        assert len(join(folder)) > 500
    assert len([name for name in parts(folder) if name.startswith("pairs-")]) > 5
    assert len([name for name in parts(folder) if name.startswith("assign-")]) >= 6
    return folder


@pytest.fixture
def whole(finished, tmp_path):
    """A finished join's folder, and its pairs."""
    folder = Path(shutil.copytree(finished, tmp_path / "whole"))
    return folder, open_pairs(folder)


class KilledError(BaseException):
    """As an interrupt from the keyboard: no Exception."""


def test_killed_anywhere_and_resumed(whole, tmp_path, monkeypatch):
    """After each report of progress: the same bytes, and no finished part made again."""
    folder, wanted = whole
    calls = []
    join(tmp_path / "count", lambda done, total: calls.append(done))
    for stop in range(1, len(calls) + 1, 6):
        broken, left = tmp_path / f"broken-{stop}", [stop]

        def report(done, total, left=left):
            left[0] -= 1
            if not left[0]:
                raise KilledError

        with pytest.raises(KilledError):
            join(broken, report)
        before, calls = parts(broken), []
        with monkeypatch.context() as patched:
            patched.setattr(run, "scan", lambda *given, calls=calls: calls.append(1) or scan(*given))
            got = join(broken)
        after = parts(broken)
        near = {name for name in before if name.startswith("near-")}  # looked at again, they become pairs
        assert len(calls) == sum(name.startswith("pairs-") for name in after) - len(
            near | {name.replace("pairs-", "near-") for name in before if name.startswith("pairs-")}
        )
        assert {name: at for name, at in before.items() if name not in near}.items() <= after.items()
        assert content(broken) == content(folder)
        assert_same_pairs(got, wanted)
        assert after.keys() == parts(folder).keys()


def test_killed_twice_and_again(whole, tmp_path):
    broken, before = tmp_path / "broken", {}
    for stop in (5, 4, 6, 8):
        left = [stop]

        def report(done, total, left=left):
            left[0] -= 1
            if not left[0]:
                raise KilledError

        with pytest.raises(KilledError):
            join(broken, report)
        now = parts(broken)
        assert {name for name in before if not name.startswith("near-")} <= now.keys()
        assert all(at == now.get(name, at) for name, at in before.items())
        before = now
    join(broken)
    assert content(broken) == content(whole[0])


def test_a_finished_join_is_not_joined_again(whole, monkeypatch):
    folder, wanted = whole

    def never(*args, **options):
        raise AssertionError("made again")

    monkeypatch.setattr(Work, "save", never)
    monkeypatch.setattr(run, "scan", never)
    again = plan(folder)
    assert_same_pairs(again.self_join(VECTORS, 0.8), wanted)
    assert again.recall_ >= 0.95
    assert "candidate recall" in again.describe()


@pytest.mark.parametrize("moment", ["replace", "write"])
def test_process_killed_outright(whole, tmp_path, moment):
    """SIGKILL in the middle of writing a part: what was begun is swept away."""
    folder, _ = whole
    broken = tmp_path / "broken"
    np.save(tmp_path / "v.npy", VECTORS)
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from siamdedup.dedup.cells import run
from siamdedup.dedup.cells.scan import Members
chunks = Members.chunks
run.BLOCK = 200
Members.chunks = lambda self, most, scores: chunks(self, most, 1500)
from siamdedup.dedup.cells.join import CellJoin
left, replace, save = [9], os.replace, np.savez
def die(call, *args, **options):
    left[0] -= 1
    if left[0] == 0:
        if {moment!r} == "write":
            args[0].write(b"half a part")
            args[0].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*args, **options)
if {moment!r} == "replace":
    os.replace = lambda *args: die(replace, *args)
else:
    np.savez = lambda *args, **options: die(save, *args, **options)
CellJoin(target_recall=0.95, cells=40, recall_sample=200, work_dir={str(broken)!r}).self_join(
    np.load({str(tmp_path / "v.npy")!r}), 0.8)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert list(broken.glob(".*.tmp"))
    before = parts(broken)
    assert 3 < len(before) < len(parts(folder))
    join(broken)
    assert before.items() <= parts(broken).items()
    assert content(broken) == content(folder)
    assert not list(broken.glob(".*.tmp"))


@pytest.mark.parametrize("options", [{"target_recall": 0.9}, {"cells": 41}, {"margin": 0.1, "seed": 1}])
def test_other_settings_start_anew(whole, tmp_path, options):
    folder, _ = whole
    fresh = join(tmp_path / "fresh", **options)
    assert_same_pairs(join(folder, **options), fresh)
    assert parts(folder).keys() == parts(tmp_path / "fresh").keys()
    assert content(folder) == content(tmp_path / "fresh")


def test_settings_that_change_no_part_keep_them(whole, monkeypatch):
    folder, wanted = whole
    before = parts(folder)
    assert_same_pairs(join(folder, memory_gb=1e-4, max_pairs=10**6), wanted)
    assert parts(folder) == before


def test_other_vectors_and_another_threshold_start_anew(whole, tmp_path):
    folder, first = whole
    before = first.left.copy()
    others = VECTORS.copy()
    others[3, 0] += np.float16(0.01)  # one value of one row
    for vectors, threshold in ((others, 0.8), (others, 0.85), (others.astype(np.float32), 0.85)):
        fresh = plan(tmp_path / "fresh").self_join(vectors, threshold)
        assert_same_pairs(plan(folder).self_join(vectors, threshold), fresh)
    np.testing.assert_array_equal(first.left, before)  # who still holds the first result keeps it


def test_without_a_folder_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = join(tmp_path / "kept")
    pairs = CellJoin(0.95, cells=40, recall_sample=200).self_join(VECTORS, 0.8)
    assert_same_pairs(pairs, kept)
    spilled = CellJoin(0.95, cells=40, recall_sample=200, memory_gb=1e-4).self_join(VECTORS, 0.8)
    assert_same_pairs(spilled, kept)
    with pytest.raises(SiamdedupError, match="more than 5 pairs"):
        CellJoin(0.95, cells=40, max_pairs=5).self_join(VECTORS, 0.8)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_too_many_pairs_are_refused_before_all_are_found(tmp_path):
    with pytest.raises(SiamdedupError, match="more than 50 pairs"):
        join(tmp_path / "few", max_pairs=50)
    done = [name for name in parts(tmp_path / "few") if name.startswith("pairs-")]
    assert len(done) < 20
    assert len(join(tmp_path / "few")) > 500  # and goes on when allowed


def test_no_thread_is_left(tmp_path):
    threads = threading.active_count()

    def report(done, total):
        if done > 300:
            raise KilledError

    with pytest.raises(KilledError):
        join(tmp_path / "broken", report)
    until = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_work(tmp_path):
    work = Work(tmp_path / "w", {"a": 1, "b": (1, 2)})
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3), "y": np.zeros((0, 2), np.float32)}

    for _ in range(2):
        got = work.once("part", make)
        np.testing.assert_array_equal(got["x"], [0, 1, 2])
        assert got["y"].shape == (0, 2)
    assert len(made) == 1
    assert Work(tmp_path / "w", {"b": [1, 2], "a": 1}).has("part")  # as JSON sees it
    assert not Work(tmp_path / "w", {"a": 2}).has("part")
    work.save("part", x=np.arange(2))
    (tmp_path / "w" / "identity.json").write_text("{")  # cut short: of whom the parts are is unknown
    assert not Work(tmp_path / "w", {"a": 2}).has("part")
    for code in (errno.ENOSPC, errno.EACCES):
        with pytest.raises(SiamdedupError, match=os.strerror(code)), disk_errors(tmp_path):
            raise OSError(code, "x")
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("of the program")
