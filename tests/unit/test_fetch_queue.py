"""Whose turn it is: fair, bounded per host, nothing lost, nothing early."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamdedup.catalog.fetching.queue import HostQueue, Job


def job(name: str) -> Job:
    return Job(name, name.split("/")[0])


def taken(queue: HostQueue, now: float) -> list[Job]:
    found = []
    while (item := queue.take(now)) is not None:
        found.append(item)
    return found


def test_hosts_take_turns_and_none_exceeds_its_share() -> None:
    queue = HostQueue(per_host=2)
    for name in ["a/1", "a/2", "a/3", "a/4", "b/1", "c/1"]:
        queue.add(job(name))
    first = taken(queue, 0)
    assert [item.url for item in first] == ["a/1", "b/1", "c/1", "a/2"]
    assert len(queue) == 2
    queue.done(first[0])
    assert [item.url for item in taken(queue, 0)] == ["a/3"]
    assert queue.next_due() is None


def test_a_delayed_job_comes_when_it_is_due_and_blocks_nobody() -> None:
    queue = HostQueue(1)
    queue.add(job("a/1"), due=5)
    queue.add(job("a/2"))
    now = taken(queue, 1)
    assert [item.url for item in now] == ["a/2"]
    queue.done(now[0])
    assert queue.next_due() == 5
    assert taken(queue, 4.9) == []
    assert [item.url for item in taken(queue, 5)] == ["a/1"]


def test_a_paused_host_waits_for_the_longest_pause() -> None:
    queue = HostQueue(4)
    for name in ["a/1", "a/2", "b/1"]:
        queue.add(job(name))
    first = queue.take(0)
    queue.pause("a", 3)
    queue.pause("a", 9)
    queue.pause("a", 6)
    assert [item.url for item in taken(queue, 1)] == ["b/1"]
    queue.done(first)
    assert taken(queue, 3) == taken(queue, 8.9) == []
    assert queue.next_due() == 9
    assert [item.url for item in taken(queue, 9)] == ["a/2"]


def test_a_pause_outlives_the_hosts_last_job() -> None:
    queue = HostQueue(1)
    queue.add(job("a/1"))
    only = queue.take(0)
    queue.pause("a", 5)
    queue.done(only)
    assert queue.take(1) is None
    queue.add(job("a/2"))
    assert queue.take(4) is None
    assert queue.take(5).url == "a/2"


def test_requests_begun_together_are_one_strike_and_an_answer_ends_the_row() -> None:
    queue = HostQueue(8)
    for k in range(8):
        queue.add(job(f"a/{k}"))
    together = taken(queue, 1.0)
    strikes = []
    for item in together:
        strikes.append(queue.unreached(item))
        queue.pause("a", 2.0)
    assert strikes == [1] * 8
    for item in together:
        queue.done(item)
    queue.add(job("a/9"))
    late = queue.take(2.0)
    assert queue.unreached(late) == queue.strikes("a") == 2
    queue.reached("a")
    assert queue.strikes("a") == queue.strikes("never seen") == 0


def test_hosts_without_work_are_forgotten() -> None:
    queue = HostQueue(1)
    for k in range(1000):
        queue.add(job(f"h{k}/x"))
        queue.done(queue.take(0))
    assert queue.take(0) is None
    assert len(queue._hosts) == 0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_job_ends_once_and_no_bound_is_broken(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queue, now = HostQueue(3), 0.0
    names = [f"{host}/{k}" for host in "abcde" for k in range(30)]
    rng.shuffle(names)
    busy: list[Job] = []
    finished: Counter[str] = Counter()
    due: dict[str, float] = {}
    paused: dict[str, float] = {}
    while names or busy or len(queue):
        now += float(rng.exponential(0.2))
        for _ in range(int(rng.integers(0, 4))):
            if names:
                queue.add(job(names.pop()))
        while len(busy) < 10 and (item := queue.take(now)) is not None:
            assert due.get(item.url, 0) <= now
            assert paused.get(item.host, 0) <= now
            busy.append(item)
        assert max(Counter(item.host for item in busy).values(), default=0) <= 3
        if busy and rng.random() < 0.8:
            item = busy.pop(int(rng.integers(len(busy))))
            if rng.random() < 0.2:
                until = now + float(rng.exponential(1))
                paused[item.host] = max(paused.get(item.host, 0), until)
                queue.pause(item.host, until)
            queue.done(item)
            if rng.random() < 0.3:
                due[item.url] = now + float(rng.exponential(1))
                queue.add(item, due=due[item.url])
            else:
                finished[item.url] += 1
    assert len(finished) == 150
    assert set(finished.values()) == {1}
