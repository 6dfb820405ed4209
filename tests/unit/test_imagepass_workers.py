"""The decoding pool: results as of a plain loop, and a picture that kills or hangs its decoder costs that picture."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw
from PIL import Image

from siamdedup.catalog.images import decode, digest
from siamdedup.errors import ImageError
from siamdedup.imagepass import supervisor
from siamdedup.imagepass.workers import DecodePool

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")


@dataclass(frozen=True)
class Thumb:
    shape: tuple[int, ...] = (8, 8, 3)
    grey: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Grey:
    shape: tuple[int, ...] = (5,)
    grey: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[:5, 3, 1].copy()


@dataclass(frozen=True)
class Trap:
    """Does what the colour of a picture's corner says; anything else becomes its mean."""

    shape: tuple[int, ...] = (1,)
    grey: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        act = {
            (255, 0, 0): lambda: os.kill(os.getpid(), signal.SIGKILL),
            (250, 0, 0): lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)),
            (245, 0, 0): lambda: os._exit(3),
            (0, 255, 0): lambda: time.sleep(100),
            (0, 0, 255): lambda: {}["no such key"],
            (0, 0, 250): lambda: np.empty(1 << 60, np.uint8),
        }.get(tuple(pixels[0, 0].tolist()))
        if act:
            act()
        return np.array([pixels.mean()]).astype(np.uint8)


KILL, SEGV, EXIT, HANG, BUG, MEMORY = (
    (255, 0, 0),
    (250, 0, 0),
    (245, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (0, 0, 250),
)


@dataclass(frozen=True)
class KillOnce:
    """Dies of the first picture, and leaves a mark so that it does so only once, as an outside kill would."""

    mark: str
    shape: tuple[int, ...] = (1,)
    grey: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([7], np.uint8)


class WrongShape(Grey):
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[:4, 0, 0]


class NotLoadable(Grey):
    def __setstate__(self, state: object) -> None:
        raise ImportError("a library is missing")

    def __getstate__(self) -> dict[str, int]:
        return {"any": 1}


def save(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pictures of several sizes and formats; every fourth path is no picture."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_bytes(b"<html>not found</html>")
    paths = []
    for k in range(30):
        form = ("png", "jpg", "webp")[k % 3]
        paths.append(save(folder / f"{k} ä.{form}", draw(k, k, 40 + 9 * k)[: 40 + 5 * k]))
        if k % 3 == 2:
            bad = ("empty.jpg", "page.jpg", "missing.jpg", ".", "x" * 9000, "\udcff", "a\0b.jpg")
            paths.append(str(folder / bad[k // 3 % len(bad)]))
    return paths


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    return [save(tmp_path / f"{k}.png", np.full((12, 12, 3), 10 + k, np.uint8)) for k in range(20)]


def trap(path: str, colour: Sequence[int]) -> None:
    save(Path(path), np.full((12, 12, 3), colour, np.uint8))


def chunks(paths: list[str], size: int) -> Iterator[list[str]]:
    return (paths[k : k + size] for k in range(0, len(paths), size))


def collect(pool: DecodePool, paths: list[str], size: int) -> tuple[np.ndarray, list[str]]:
    """The first Prepare's results and the reasons of everything, in order."""
    found = [(d.prepared[0].copy(), d.reasons) for d in pool.run(chunks(paths, size))]
    assert [len(p) for p, _ in found] == [len(batch) for batch in chunks(paths, size)]
    return np.concatenate([p for p, _ in found]), [reason for _, reasons in found for reason in reasons]


def expect_traps(pool: DecodePool, paths: list[str], size: int, reasons: dict[int, str]) -> None:
    """The named pictures fail for their reasons, every other has its own value, in order."""
    values, found = collect(pool, paths, size)
    assert {k: reason for k, reason in enumerate(found) if reason} == reasons
    assert values[:, 0].tolist() == [0 if k in reasons else 10 + k for k in range(len(paths))]


@pytest.mark.parametrize(
    ("count", "method"),
    [(0, None), (1, None), (2, "spawn"), pytest.param(3, "fork", marks=posix)],
)
def test_results_are_those_of_a_plain_loop_in_order(mixed: list[str], count: int, method: str | None) -> None:
    thumb, grey = Thumb(), Grey()
    with DecodePool([thumb, grey], side=120, batch_size=7, workers=count, start_method=method) as pool:
        for _ in range(2):  # the second run finds used slots
            position = 0
            for decoded, batch in zip(pool.run(chunks(mixed, 7)), chunks(mixed, 7), strict=True):
                assert [len(p) for p in decoded.prepared] == [len(batch)] * 2
                for k, path in enumerate(batch):
                    try:
                        data = Path(path).read_bytes()
                        pixels = decode(data, at_least=120)
                    except (ImageError, OSError, ValueError):
                        assert decoded.reasons[k]
                        assert not any(
                            p[k].any() for p in (*decoded.prepared, decoded.sizes, decoded.digests)
                        )
                        continue
                    assert decoded.reasons[k] == ""
                    assert np.array_equal(decoded.prepared[0][k], thumb(pixels))
                    assert np.array_equal(decoded.prepared[1][k], grey(pixels))
                    assert decoded.sizes[k].tolist() == [pixels.shape[1], pixels.shape[0]]
                    assert decoded.digests[k].tobytes().hex() == digest(data)
                position += len(batch)
            assert position == len(mixed)


def test_reasons_are_the_decoders_own(mixed: list[str]) -> None:
    with DecodePool([Grey()], side=120, batch_size=50, workers=1) as pool:
        (decoded,) = pool.run([mixed])
    reasons = {Path(p).name: r for p, r in zip(mixed, decoded.reasons, strict=True) if r}
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["missing.jpg"] == "no such file"
    with pytest.raises(ImageError) as caught:
        decode(b"<html>not found</html>", at_least=120)
    assert reasons["page.jpg"] == caught.value.problem
    assert len(reasons) == 7


@pytest.mark.parametrize("count", [0, 2])
def test_bugs_and_lack_of_memory_cost_one_picture_and_are_told(pictures: list[str], count: int) -> None:
    trap(pictures[2], BUG)
    trap(pictures[5], MEMORY)
    with DecodePool([Trap()], side=16, batch_size=4, workers=count) as pool:
        reasons = {2: "unexpected KeyError: 'no such key'", 5: "not enough memory"}
        expect_traps(pool, pictures, 4, reasons)
    with DecodePool([WrongShape()], side=16, batch_size=4, workers=count) as pool:
        _, found = collect(pool, pictures[:1], 4)
    assert found == ["unexpected ValueError: WrongShape made uint8 (4,), not uint8 (5,)"]


@posix
@pytest.mark.parametrize(
    ("colour", "cause"), [(KILL, "signal 9"), (SEGV, "signal 11"), (EXIT, "exit code 3")]
)
def test_a_crash_costs_one_picture(pictures: list[str], colour: tuple[int, ...], cause: str) -> None:
    bad = (0, 6, 9, 10, 11, 12, 19)  # first and last of the catalogue and of a batch, neighbours
    for k in bad:
        trap(pictures[k], colour)
    with DecodePool([Trap()], side=16, batch_size=5, workers=2) as pool:
        expect_traps(pool, pictures, 5, dict.fromkeys(bad, f"the decoder crashed ({cause})"))


@posix
def test_a_catalogue_of_nothing_but_crashes_ends(pictures: list[str]) -> None:
    for path in pictures:
        trap(path, KILL)
    with DecodePool([Trap()], side=16, batch_size=20, workers=1) as pool:
        expect_traps(pool, pictures, 20, dict.fromkeys(range(20), "the decoder crashed (signal 9)"))


@posix
def test_a_hang_costs_one_picture(pictures: list[str]) -> None:
    for k in (3, 7):
        trap(pictures[k], HANG)
    with DecodePool([Trap()], side=16, batch_size=4, workers=1, timeout_s=0.2) as pool:
        reason = "decoding took more than 0.2 s"
        expect_traps(pool, pictures, 4, {3: reason, 7: reason})


@posix
def test_a_hung_process_ends_by_its_own_clock_while_the_consumer_is_away(pictures: list[str]) -> None:
    trap(pictures[1], HANG)
    with DecodePool([Trap()], side=16, batch_size=1, workers=1, timeout_s=0.2) as pool:
        run = pool.run([p] for p in pictures[:3])
        assert next(run).reasons == [""]
        pool._supervisor.workers[0].process.join(10)
        assert pool._supervisor.workers[0].process.exitcode == -signal.SIGALRM
        assert [d.reasons[0] for d in run] == ["decoding took more than 0.2 s", ""]


@posix
def test_a_kill_from_outside_costs_nothing(pictures: list[str], tmp_path: Path) -> None:
    with DecodePool([KillOnce(str(tmp_path / "mark"))], side=16, batch_size=4, workers=2) as pool:
        values, reasons = collect(pool, pictures, 4)
        assert (tmp_path / "mark").exists()
        assert reasons == [""] * 20
        assert (values == 7).all()
        for worker in pool._supervisor.workers:  # idle ones
            worker.process.kill()
        assert collect(pool, pictures, 4)[1] == [""] * 20


def test_processes_that_cannot_start_raise(pictures: list[str]) -> None:
    with (
        DecodePool([NotLoadable()], side=16, batch_size=4, workers=1, start_method="spawn") as pool,
        pytest.raises(RuntimeError, match=r"die as they start \(exit code 1\)"),
    ):
        list(pool.run(chunks(pictures, 4)))


@posix
def test_forked_processes_that_die_at_once_raise(
    pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "worker_main", lambda *_: os._exit(4))
    with (
        DecodePool([Grey()], side=16, batch_size=4, workers=2, start_method="fork") as pool,
        pytest.raises(RuntimeError, match=r"die as they start \(exit code 4\)"),
    ):
        list(pool.run(chunks(pictures, 4)))
    assert not pool._supervisor.workers


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_of_the_consumer_ends_the_processes(pictures: list[str], error: type) -> None:
    processes = []

    def consume() -> None:
        with DecodePool([Trap()], side=16, batch_size=2, workers=2) as pool:
            for _ in pool.run(chunks(pictures, 2)):
                processes.extend(worker.process for worker in pool._supervisor.workers)
                raise error

    with pytest.raises(error):
        consume()
    assert len(processes) == 2
    assert all(process.exitcode is not None for process in processes)


def test_a_run_left_early_does_not_leak_into_the_next(pictures: list[str]) -> None:
    with DecodePool([Trap()], side=16, batch_size=2, workers=2) as pool:
        first = pool.run(chunks(pictures, 2))
        next(first)
        with pytest.raises(ValueError, match="in use"):
            next(pool.run(chunks(pictures, 2)))
        processes = [worker.process for worker in pool._supervisor.workers]
        first.close()
        assert all(process.exitcode is not None for process in processes)
        expect_traps(pool, pictures, 2, {})
    with pytest.raises(ValueError, match="closed"):
        next(pool.run(chunks(pictures, 2)))


def test_an_error_of_the_source_comes_through(pictures: list[str]) -> None:
    def source() -> Iterator[list[str]]:
        yield pictures[:2]
        raise OSError("the table broke off")

    with (
        DecodePool([Trap()], side=16, batch_size=2, workers=1) as pool,
        pytest.raises(OSError, match="broke"),
    ):
        list(pool.run(source()))


@pytest.mark.parametrize("count", [0, 2])
def test_read_ahead_is_bounded_and_degenerate_batches_pass(pictures: list[str], count: int) -> None:
    drawn = []

    def source() -> Iterator[list[str]]:
        for k in range(40):
            drawn.append(k)
            yield pictures[:0] if k % 2 else pictures[:1]

    with DecodePool([Trap()], side=16, batch_size=1, workers=count) as pool:
        for k, decoded in enumerate(pool.run(source())):
            assert len(drawn) <= k + 3 * count + 1
            assert decoded.prepared[0].shape == (1 - k % 2, 1)
            assert decoded.sizes.shape == (1 - k % 2, 2)
        assert len(drawn) == 40
        assert list(pool.run([])) == []
        with pytest.raises(ValueError, match="a batch of 2 pictures"):
            list(pool.run([pictures[:2]]))


def test_settings_are_checked() -> None:
    for wrong in (
        {"batch_size": 0},
        {"workers": -1},
        {"timeout_s": 0.0},
        {"side": 0},
        {"truncated": "maybe"},
    ):
        with pytest.raises(ValueError, match="must be"):
            DecodePool([], **{"side": 16, "batch_size": 1, **wrong})


@posix
def test_ctrl_c_is_not_the_processes_business(pictures: list[str]) -> None:
    with DecodePool([Trap()], side=16, batch_size=4, workers=2) as pool:
        expect_traps(pool, pictures, 4, {})
        before = [worker.process.pid for worker in pool._supervisor.workers]
        for pid in before:
            os.kill(pid, signal.SIGINT)  # a terminal sends it to the whole group
        expect_traps(pool, pictures, 4, {})
        assert [worker.process.pid for worker in pool._supervisor.workers] == before


ORPHANS = """
import sys, time
sys.path[:0] = [{tests!r}, {here!r}]
from test_imagepass_workers import Trap
from siamdedup.imagepass.workers import DecodePool
if __name__ == "__main__":
    pool = DecodePool([Trap()], side=16, batch_size=1, workers=3, timeout_s=1.0, start_method={method!r})
    run = pool.run([path] for path in sys.argv[1:])
    next(run)
    print(*(worker.process.pid for worker in pool._supervisor.workers), flush=True)
    time.sleep(100)
"""


def running(pid: int) -> bool:
    """Neither gone nor a zombie that its new parent has not fetched."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_parent_leaves_no_process_and_no_shared_memory(pictures: list[str], method: str) -> None:
    trap(pictures[1], HANG)  # one process hangs, the others are idle or die and come again
    trap(pictures[2], KILL)
    here = str(Path(__file__).parent)
    script = ORPHANS.format(tests=str(Path(here).parent), here=here, method=method)
    path = Path(pictures[0]).with_name("parent.py")
    path.write_text(script)
    with subprocess.Popen(
        [sys.executable, str(path), pictures[0], pictures[1], pictures[2], pictures[3]],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 3
        assert any(running(pid) for pid in children)
        parent.kill()
    patience = time.monotonic() + 20
    while any(running(pid) for pid in children) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(running(pid) for pid in children)
    assert not [name for name in os.listdir("/dev/shm") if f"-{parent.pid}-" in name]
