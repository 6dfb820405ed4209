"""kill -9 in the middle of a study, several processes on one study, and locks that die with their process."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from sweep_helpers import asked, counted, read_log, settings, train

from siamdedup.cores import cores
from siamdedup.errors import SiamdedupError
from siamdedup.sweeps.locks import FileLock, Presence
from siamdedup.sweeps.run import THREAD_POOLS, in_processes, sweep
from siamdedup.sweeps.study import open_study
from siamdedup.sweeps.worker import MAX_DEATHS

HELPERS = Path(__file__).with_name("sweep_helpers.py")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    yield
    HydraConfig.instance().cfg = None


def start(out: Path, trials: int, workers: int, *more: str, seconds: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, str(HELPERS), str(out), str(trials), str(workers), *more]
    return subprocess.Popen(
        command,
        env={**os.environ, "SWEEP_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "nothing happens"
        time.sleep(0.02)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_killed_again_and_again_it_ends_like_an_unbroken_study(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "a"
    killed = []
    for trials_before_the_kill in (1, 3):
        process = start(out, 6, 1, seconds=0.4)
        wait_for(lambda n=trials_before_the_kill: len(asked(read_log(log))) >= n, process)
        begun = len(asked(read_log(log), "begin"))
        wait_for(lambda n=begun: len(asked(read_log(log), "begin")) > n, process)  # a trial is under way
        kill(process)
        killed += (
            counted(read_log(log), "begin") - counted(read_log(log), "end") - Counter(killed)
        ).elements()
    assert len(killed) == 2
    sweep(settings(out), train)

    ended, began = counted(read_log(log), "end"), counted(read_log(log), "begin")
    assert set(ended.values()) == {1}, "no finished trial runs twice"
    assert len(ended) == 6
    assert began == ended + Counter(killed), "what was under way began twice, with the same parameters"
    rows = table(out)
    assert [row["state"] for row in rows].count("lost") == 2
    sweep(settings(tmp_path / "whole"), train)
    assert [(r["params"], r["value"]) for r in rows if r["state"] == "complete"] == [
        (r["params"], r["value"]) for r in table(tmp_path / "whole")
    ]


def test_two_commands_on_one_study_and_one_of_them_killed(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "a"
    first, second = start(out, 12, 1, seconds=0.3), start(out, 12, 1, seconds=0.3)
    wait_for(lambda: len({e["pid"] for e in read_log(log)}) == 2, first)
    seen = len(asked(read_log(log), "begin"))
    wait_for(
        lambda: any(e["pid"] == second.pid and e["event"] == "begin" for e in read_log(log)[seen:]), first
    )
    kill(second)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said

    ended, began = counted(read_log(log), "end"), counted(read_log(log), "begin")
    assert sum(ended.values()) == len(ended) == 12, "exactly as many as were asked for, none twice"
    assert began - ended == (began - Counter(set(began))), "none began that was not ended in the end"
    rows = table(out)
    assert Counter(row["state"] for row in rows)["complete"] == 12
    assert len({row["folder"] for row in rows}) == len(rows)
    assert not list((out / "workers").iterdir()), "the dead worker's lock is tidied away"


def test_two_workers_of_one_command_share_the_trials(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "a"
    process = start(out, 11, 2, seconds=0.5)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert sum(counted(read_log(log), "end").values()) == len(table(out)) == 11
    pids = {e["pid"] for e in read_log(log)}
    assert len(pids) == 2
    assert process.pid not in pids


def test_the_workers_die_with_their_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(tmp_path / "a", 50, 2, seconds=0.5)
    # Both are at work: a busy machine starts the second one trials later.
    wait_for(lambda: len({e["pid"] for e in read_log(log)}) >= 2, process)
    kill(process)
    time.sleep(1.0)
    before = read_log(log)
    time.sleep(1.5)  # as long as three trials take
    assert read_log(log) == before
    assert len({e["pid"] for e in before}) == 2


def test_a_trial_that_kills_its_process_each_time_is_given_up(tmp_path: Path) -> None:
    out, codes = tmp_path / "a", []
    while len(codes) < MAX_DEATHS + 1:
        process = start(out, 1, 1, "train_kills_itself")
        process.communicate(timeout=120)
        codes.append(process.returncode)
    log = read_log(tmp_path / "log")
    deadly = counted(log, "begin") - counted(log, "end")
    # Given up after so many, the study goes on with other settings and is done, or dies on the next.
    assert codes[:MAX_DEATHS] == [-signal.SIGKILL] * MAX_DEATHS
    assert deadly.most_common(1)[0] == (asked(log, "begin")[0], MAX_DEATHS)
    assert asked(log, "begin")[MAX_DEATHS] != asked(log, "begin")[0]
    assert [row["state"] for row in table(out)][:MAX_DEATHS] == ["lost"] * MAX_DEATHS


def test_an_unfinished_last_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    out = tmp_path / "a"
    sweep(settings(out, trials=3), train)
    journal = out / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x","study_')
    assert len(open_study(settings(out)).trials) == 3
    assert journal.read_bytes() == whole
    sweep(settings(out, trials=4), train)
    assert len(table(out)) == 4


def test_a_best_trial_whose_table_was_lost_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "a"
    sweep(settings(out, trials=3), train)
    before = [(out / name).read_bytes() for name in ("best.yaml", "trials.csv")]
    for name in ("best.yaml", "trials.csv"):
        (out / name).unlink()
    sweep(settings(out, trials=3), train)
    assert [(out / name).read_bytes() for name in ("best.yaml", "trials.csv")] == before


def test_a_lock_is_given_back_by_its_processs_death_and_not_inherited(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from siamdedup.sweeps.locks import Presence\n"
        f"presence = Presence({str(tmp_path)!r} and __import__('pathlib').Path({str(tmp_path)!r})).__enter__()\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60); os._exit(0)\n"
        "print(presence.name, child, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name, child = process.stdout.readline().split()
    try:
        with Presence(tmp_path) as mine:
            assert mine.alive(mine.name)
            assert mine.alive(name)
            assert not mine.alive("123-never")
            process.kill()
            process.wait()
            os.kill(int(child), 0)  # a loader worker outlives its parent by a moment
            assert not mine.alive(name)
            assert mine.alive(mine.name)
    finally:
        os.kill(int(child), signal.SIGKILL)
        process.stdout.close()
    assert not list(tmp_path.glob("*.lock"))


def test_a_lock_excludes_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from siamdedup.sweeps.locks import FileLock\n"
        f"sys.exit(0 if FileLock({str(tmp_path / 'x')!r}).acquire(wait=False) else 7)"
    )
    command = [sys.executable, "-c", code]
    with FileLock(tmp_path / "x"):
        assert subprocess.run(command, timeout=60).returncode == 7
    assert subprocess.run(command, timeout=60).returncode == 0


def test_dead_workers_are_said_and_the_study_stays_whole(tmp_path: Path) -> None:
    """All workers of a command die: its error says to run it again."""
    process = start(tmp_path / "a", 6, 2, "train_kills_itself")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert SiamdedupError.__name__ in said
    assert "run the same command again" in said
    rows = table(tmp_path / "a")
    assert json.loads(rows[0]["params"])


def _threads_of_pools(folder: Path) -> None:
    import torch

    (folder / str(os.getpid())).write_text(f"{torch.get_num_threads()} {os.environ.get('OMP_NUM_THREADS')}")


@pytest.mark.parametrize("asked", [None, "3"])
def test_worker_processes_share_the_cores(
    asked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_POOLS:
        monkeypatch.delenv(name, raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = dict(os.environ)
    in_processes(_threads_of_pools, (tmp_path,), 2)
    told = [tuple(map(int, path.read_text().split())) for path in tmp_path.iterdir()]
    assert len(told) == 2
    share = int(asked or max(1, cores() // 2))
    assert {of_environment for _, of_environment in told} == {share}
    assert all(threads <= share for threads, _ in told)
    assert dict(os.environ) == before
