"""What a training step of a network with wide layers spends, each part beside what it replaced.

Koch's twin (39 million parameters) on one batch: the optimiser's step, fused and tensor by tensor; the logits of all
pairs with their gradients, through city-block distances and through the table of differences; pooling and rectifying
the first maps, in either order. Medians, in turns, so that a busy moment of the machine hits both.

    python benchmarks/train_step.py [--batch 64] [--rounds 7]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import max_pool2d

from siamdedup.embedding.network import build_network
from siamdedup.embedding.pairhead import PairHead


def timed(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def optimisers() -> tuple[Callable[[], object], Callable[[], object]]:
    tasks = []
    for options in ({"fused": True}, {"foreach": False, "fused": False}):
        network = build_network(
            {"name": "koch2015", "weights": None}, {"kind": "sigmoid", "dim": 4096, "pair": "l1"}
        )
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        tasks.append(torch.optim.AdamW(network.parameters(), lr=1e-4, **options).step)  # type: ignore[arg-type]
    return tasks[0], tasks[1]


def tables(batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    features = torch.rand(batch, 4096, requires_grad=True)
    head = PairHead(4096, "l1")

    def differences() -> None:
        head.logit(features[:, None], features[None]).sum().backward()

    return lambda: head.logit_table(features, features).sum().backward(), differences


def pools(batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    maps = torch.randn(batch, 64, 96, 96, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    maps.requires_grad_()

    def run(task: Callable[[torch.Tensor], torch.Tensor]) -> None:
        out = task(maps)
        out.backward(torch.ones_like(out))

    return (
        lambda: run(lambda x: max_pool2d(x, 2).relu()),
        lambda: run(lambda x: max_pool2d(x.relu(), 2)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    cases = {
        "AdamW: fused / tensor by tensor": optimisers(),
        "all pairs' logits: city block / differences": tables(given.batch),
        "first maps: pooled, rectified / rectified, pooled": pools(given.batch),
    }
    table = Table(
        "part", "ms", "ms before", "ratio", title=f"batch {given.batch}, {torch.get_num_threads()} threads"
    )
    for name, (now, before) in cases.items():
        now(), before()  # the first of each allocates
        rounds = [(timed(now), timed(before)) for _ in range(given.rounds)]
        ours, theirs = (median(column) for column in zip(*rounds, strict=True))
        ratio = median(b / a for a, b in rounds)
        table.add_row(name, f"{1000 * ours:.1f}", f"{1000 * theirs:.1f}", f"{ratio:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
