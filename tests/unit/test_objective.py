"""The objective, with embeddings on a circle so that pairs and triplets can be derived by hand."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import ProxyAnchorLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner

from siamdedup.embedding.objective import Objective, given_triplets, without_family_negatives
from siamdedup.embedding.schedule import warmup_cosine
from siamdedup.errors import ConfigError


def on_circle(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_given_triplets_are_the_rows_three_in_turn() -> None:
    anchor, positive, negative = given_triplets(7)
    assert (anchor.tolist(), positive.tolist(), negative.tolist()) == ([0, 3], [1, 4], [2, 5])


def test_offline_triplets_reach_the_loss_as_given() -> None:
    vectors = on_circle(0, 10, 40, 90, 120, 100)
    loss = TripletMarginLoss(margin=0.2, distance=LpDistance(p=2, power=1))
    objective = Objective(loss, None, embedding_size=2, tuples_given=True)

    def chord(a: float, b: float) -> float:
        return 2 * math.sin(math.radians(abs(a - b)) / 2)

    terms = [max(0.0, chord(0, 10) - chord(0, 40) + 0.2), max(0.0, chord(90, 120) - chord(90, 100) + 0.2)]
    expected = sum(terms) / sum(t > 0 for t in terms)  # PML averages over the triplets that are not zero
    value, mined = objective(vectors, torch.tensor([0, 0, 1, 2, 2, 3]))
    assert value.item() == pytest.approx(expected, abs=1e-5)
    assert mined == -1


def test_the_miner_picks_and_the_count_is_reported() -> None:
    vectors, labels = on_circle(0, 20, 30, 50), torch.tensor([0, 0, 1, 1])
    loss = TripletMarginLoss(margin=0.2, distance=CosineSimilarity())
    value, mined = Objective(loss, BatchHardMiner(distance=CosineSimilarity()), embedding_size=2)(
        vectors, labels
    )
    assert mined == 4  # one triplet for each anchor
    assert value > 0
    # Semi-hard: the negative is less similar than the positive, by less than the margin. Each positive is at 20
    # degrees (cosine .940) and has one such negative at 30 (.866): the gap is .074. The others are at 10 or 50.
    for margin, expected in ((0.05, 0), (0.1, 4)):
        miner = TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=CosineSimilarity())
        assert Objective(loss, miner, embedding_size=2)(vectors, labels)[1] == expected


def test_a_picture_of_the_same_family_is_never_a_negative() -> None:
    labels, families = torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7, 7, 7])
    loss = TripletMarginLoss(margin=0.2, distance=CosineSimilarity())
    vectors = on_circle(0, 20, 10, 30)
    blind = Objective(loss, None, embedding_size=2)
    assert blind(vectors, labels, families)[0] > 0
    for miner in (None, BatchHardMiner(distance=CosineSimilarity())):
        aware = Objective(loss, miner, embedding_size=2, labels_are_families=False)
        assert aware(vectors, labels, families)[0] == 0
        assert aware(vectors, labels, labels)[0] == pytest.approx(
            Objective(loss, miner, embedding_size=2)(vectors, labels)[0].item()
        )
    triplets = tuple(torch.tensor(v) for v in ([0, 0], [1, 1], [2, 3]))
    kept = without_family_negatives(triplets, torch.tensor([7, 7, 7, 8]))
    assert [v.tolist() for v in kept] == [[0], [1], [3]]


def test_what_makes_negatives_of_its_own_needs_whole_families() -> None:
    with pytest.raises(ConfigError, match="cross-batch memory"):
        Objective(TripletMarginLoss(), None, embedding_size=2, memory_size=8, labels_are_families=False)
    with pytest.raises(ConfigError, match="ProxyAnchorLoss"):
        Objective(ProxyAnchorLoss(2, 2), None, embedding_size=2, labels_are_families=False)


def test_the_memory_adds_negatives_of_earlier_batches() -> None:
    loss = TripletMarginLoss(margin=0.2, distance=CosineSimilarity())
    objective = Objective(loss, None, embedding_size=2, memory_size=8)
    first, _ = objective(on_circle(0, 20), torch.tensor([0, 0]))
    assert first.item() == 0.0  # one family alone: no negative anywhere
    second, _ = objective(on_circle(10, 30), torch.tensor([1, 1]))
    assert second.item() > 0.0


def test_the_schedule_rises_and_falls() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_cosine(optimizer, 100, warmup=0.1, final=0.01)
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)
