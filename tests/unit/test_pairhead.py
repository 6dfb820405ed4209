"""Verification heads: every similarity against a plain loop, in the loss, the network, the checkpoint and the trials."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from sklearn.metrics import log_loss
from torch.nn.functional import softplus

from siamdedup.cli.training import build_module
from siamdedup.embedding import pairhead
from siamdedup.embedding.checkpoint import SECTION, TrainedModel, load_checkpoint, section
from siamdedup.embedding.extract import EmbeddingFeature
from siamdedup.embedding.network import EmbeddingNetwork, build_network, model_hash, rebuild
from siamdedup.embedding.pairhead import DISTANCE_OF, KINDS, LEARNT, PairHead, VerificationLoss
from siamdedup.embedding.transforms import InputTransform
from siamdedup.errors import CheckpointError, ConfigError
from siamdedup.verification.distances import DISTANCES, PAIR_DISTANCES, snap, to_distance, to_similarity
from siamdedup.verification.oneshot import given_episodes, one_shot
from siamdedup.verification.pairs import ImageTruth, score_embeddings

DIM = 13
SMALL = {"name": "conv4", "weights": None, "width": 4, "size": 32}
KOCH = {"kind": "sigmoid", "dim": 8, "pair": "l1"}


def features(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Values >= 0, as the chi-squared kind asks."""
    return np.random.default_rng(seed).gamma(1.0, 1.0, (n, dim)).astype(np.float32)


def drawn_head(kind: str, dim: int = DIM) -> PairHead:
    """A head whose weights are no longer alike, some of them negative."""
    head = PairHead(dim, kind)
    rng = np.random.default_rng(5)
    for parameter in head.parameters():
        parameter.data = torch.tensor(rng.normal(0.3, 0.5, parameter.shape), dtype=torch.float32)
    return head


def naive(head: PairHead, a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two vectors, coordinate by coordinate in Python's floats."""
    if head.kind == "plain":
        return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))
    x = head.bias.item()
    for p, q, w in zip(a.tolist(), b.tolist(), head.weight.tolist(), strict=True):
        difference = {
            "l1": lambda p, q: abs(p - q),
            "l2": lambda p, q: (p - q) ** 2,
            "chi2": lambda p, q: (p - q) ** 2 / (p + q) if p + q else 0.0,
        }[head.kind](p, q)
        x -= w * difference
    return math.log1p(math.exp(-x))


# --- the head itself ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_table_and_rows_are_those_of_a_loop(kind: str) -> None:
    head, a, b = drawn_head(kind), features(7), features(40, 1)
    expected = np.array([[1 - naive(head, x, y) for y in b] for x in a])
    table = head.table(a, b)
    assert table.dtype == np.float32
    assert table == pytest.approx(expected, abs=2e-5)
    left, right = (part.ravel() for part in np.indices(table.shape))
    rows = head.rows(a[left], b[right])
    assert rows.dtype == np.float32
    assert rows == pytest.approx(table.ravel(), abs=2e-5)
    assert head.distance(torch.tensor(a[:, None]), torch.tensor(b[None])).detach().numpy() == pytest.approx(
        1 - expected, abs=2e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_pair_never_matters(kind: str) -> None:
    head, a = drawn_head(kind), features(33)
    table = head.table(a, a)
    assert table == pytest.approx(table.T, abs=1e-6)
    assert np.array_equal(head.rows(a, a[::-1]), head.rows(a[::-1], a))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_features_are_as_close_as_anything_can_be(kind: str) -> None:
    head, a = PairHead(DIM, kind), features(30)
    a[4] = 0  # nothing fires: the chi-squared kind must not divide by it
    same = head.rows(a, a)
    if kind == "plain":
        assert (same == 1).all()
    else:  # -log P(same) at the bias: the least that a learnt head can say
        assert same == pytest.approx(np.full(30, 1 - math.log1p(math.exp(-1.0))), abs=1e-6)
    table = head.table(a, a)
    assert np.isfinite(table).all()
    assert np.diag(table) == pytest.approx(same, abs=1e-6)
    assert (table <= same[:, None] + 1e-6).all()
    if kind == "plain":
        assert (snap(np.diag(table)) == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_memory_map_or_another_type_holds_is_read_alike(kind: str) -> None:
    head, a = drawn_head(kind), features(20).astype(np.float16)
    wide = np.repeat(a, 2, axis=1)[:, ::2]  # not contiguous
    assert np.array_equal(head.table(wide, a[:3]), head.table(a.astype(np.float32), a[:3]))
    assert np.array_equal(head.rows(wide, a), head.rows(a.astype(np.float32), a))


@pytest.mark.parametrize("kind", LEARNT)
def test_a_table_of_logits_learns_as_pairs_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairhead, "_AT_ONCE", 3 * 8 * DIM)  # three rows of the table at a time
    head = drawn_head(kind).double()
    a, b = (torch.tensor(features(n, n), dtype=torch.float64, requires_grad=True) for n in (7, 8))
    into = torch.tensor(np.random.default_rng(0).normal(size=(7, 8)))
    found = []
    for logits in (
        head.logit_table(a, b),
        torch.stack([torch.stack([head.logit(x, y) for y in b]) for x in a]),
    ):
        assert logits.shape == (7, 8)
        gradients = torch.autograd.grad((logits * into).sum(), [a, b, head.weight, head.bias])
        found.append([logits.detach(), *gradients])
    for together, apart in zip(*found, strict=True):
        assert together.numpy() == pytest.approx(apart.numpy(), abs=1e-10)
    # A batch against itself: the gradient of its diagonal is no NaN.
    (own,) = torch.autograd.grad(head.logit_table(a, a).sum(), [a])
    assert torch.isfinite(own).all()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, a, b = drawn_head(kind), features(21), features(9, 1)
    table, rows = head.table(a, b), head.rows(a[:9], b)
    logits = None if kind == "plain" else head.logit_table(torch.tensor(a), torch.tensor(b)).detach()
    for at_once in (1, 2 * b.size, 10**9):
        monkeypatch.setattr(pairhead, "_AT_ONCE", at_once)
        assert head.table(a, b) == pytest.approx(table, abs=1e-5)
        assert head.rows(a[:9], b) == pytest.approx(rows, abs=1e-5)
        if logits is not None:
            again = head.logit_table(torch.tensor(a), torch.tensor(b)).detach()
            assert again.numpy() == pytest.approx(logits.numpy(), abs=1e-5)


def test_measuring_leaves_a_head_that_can_learn_on() -> None:
    head, a = drawn_head("l1"), torch.tensor(features(6))
    head.table(a.numpy(), a.numpy())
    head.rows(a.numpy(), a.numpy())
    head.logit_table(a, a).sum().backward()
    assert head.weight.grad is not None
    assert torch.isfinite(head.weight.grad).all()


def test_measuring_leaves_torchs_threads_alone() -> None:
    """Else a second training in one process, of the same seed, would sum in another order than the first."""
    code = (
        "import numpy, torch; from siamdedup.embedding.pairhead import PairHead; torch.set_num_threads(1); "
        "a = numpy.ones((2, 4), numpy.float32); before = torch.get_num_threads(); "
        "PairHead(4, 'l1').table(a, a); print(before, torch.get_num_threads())"
    )
    # In a process of its own: compiled kernels start their threads at the first call.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", LEARNT)
def test_measuring_leaves_the_head_on_its_device(kind: str) -> None:
    head, a = drawn_head(kind).cuda(), features(6)
    head.table(a, a)
    head.rows(a, a)
    on_device = torch.tensor(a, device="cuda")
    head.logit_table(on_device, on_device).sum().backward()
    assert {p.device.type for p in head.parameters()} == {"cuda"}


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown head.pair 'cosine'[\s\S]*l1, chi2, l2, plain"):
        PairHead(4, "cosine")


# --- the loss -------------------------------------------------------------------------------------------------
def bound(kind: str = "l1") -> tuple[VerificationLoss, PairHead]:
    loss, head = VerificationLoss(), drawn_head(kind)
    loss.bind(head)
    return loss, head


@pytest.mark.parametrize("kind", LEARNT)
def test_all_pairs_of_a_batch_are_balanced_cross_entropy(kind: str) -> None:
    loss, head = bound(kind)
    a, labels = 0.5 * features(14), np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 5, 5, 6])
    pairs = list(combinations(range(14), 2))
    same = np.array([labels[i] == labels[j] for i, j in pairs])
    chance = [math.exp(-naive(head, a[i], a[j])) for i, j in pairs]
    weight = np.where(same, 1 / same.sum(), 1 / (~same).sum())
    expected = log_loss(same, chance, sample_weight=weight)
    assert loss(torch.tensor(a), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", LEARNT)
def test_without_balance_every_pair_weighs_the_same(kind: str) -> None:
    loss, head = VerificationLoss(balanced=False), drawn_head(kind)
    loss.bind(head)
    a, labels = 0.5 * features(14), np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 5, 5, 6])
    pairs = list(combinations(range(14), 2))
    same = np.array([labels[i] == labels[j] for i, j in pairs])
    chance = [math.exp(-naive(head, a[i], a[j])) for i, j in pairs]
    # Both orders of a pair, over 14 pictures.
    expected = log_loss(same, chance, normalize=False) * 2 / 14
    assert loss(torch.tensor(a), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-4)
    mined = tuple(torch.tensor(x) for x in ([0, 3], [1, 4], [2], [7]))
    logits = [head.logit(torch.tensor(a[i]), torch.tensor(a[j])) for i, j in ((0, 1), (3, 4), (2, 7))]
    of_mined = softplus(torch.stack([-logits[0], -logits[1], logits[2]])).sum().item() / 14
    assert loss(torch.tensor(a), torch.tensor(labels), mined).item() == pytest.approx(of_mined, rel=1e-5)


@pytest.mark.parametrize("kind", LEARNT)
def test_half_precision_ends_before_the_loss(kind: str) -> None:
    loss, _ = bound(kind)
    a, labels = torch.tensor(features(10)), torch.arange(10) // 2
    few = tuple(torch.tensor(x) for x in ([0, 2], [1, 3], [0], [7]))
    for pairs in (None, few):
        expected = loss(a, labels, pairs).item()
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(a, labels, pairs)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_mined_pairs_and_triplets_are_taken_as_they_are() -> None:
    loss, head = bound()
    a, labels = features(12), torch.arange(12) // 2

    def cost(i: int, j: int, same: bool) -> float:
        distance = naive(head, a[i], a[j])
        return distance if same else -math.log1p(-math.exp(-distance))

    pairs = [torch.tensor(x) for x in ([0, 2, 2], [1, 3, 3], [0, 5], [7, 11])]
    expected = np.mean([cost(0, 1, True), cost(2, 3, True), cost(2, 3, True)]) / 2
    expected += np.mean([cost(0, 7, False), cost(5, 11, False)]) / 2
    assert loss(torch.tensor(a), labels, tuple(pairs)).item() == pytest.approx(expected, rel=1e-5)

    triplets = [(0, 1, 4), (0, 1, 6), (8, 9, 3)]
    expected = np.mean([cost(i, j, True) for i, j, _ in triplets]) / 2
    expected += np.mean([cost(i, k, False) for i, _, k in triplets]) / 2
    mined = tuple(torch.tensor(x) for x in zip(*triplets, strict=True))
    assert loss(torch.tensor(a), labels, mined).item() == pytest.approx(expected, rel=1e-5)

    # As many pairs as make a table cheaper: the loss and its gradients are the same.
    many = tuple(x.repeat(20) for x in mined)
    results = []
    for chosen in (mined, many):
        given = torch.tensor(a, requires_grad=True)
        value = loss(given, labels, chosen)
        results.append((value.detach(), *torch.autograd.grad(value, [given, head.weight, head.bias])))
    for few, more in zip(*results, strict=True):
        assert more.numpy() == pytest.approx(few.numpy(), abs=1e-6)


@pytest.mark.parametrize(("labels", "same"), [(range(6), False), ([0] * 6, True)])
def test_a_batch_of_one_kind_of_pairs_still_learns(labels: list[int], same: bool) -> None:
    loss, head = bound()
    a = torch.tensor(features(6), requires_grad=True)
    value = loss(a, torch.tensor(list(labels)))
    logits = torch.stack([head.logit(a[i], a[j]) for i, j in combinations(range(6), 2)])
    assert value.item() == pytest.approx(softplus(-logits if same else logits).mean().item() / 2, rel=1e-5)
    value.backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().sum() > 0


def test_no_pairs_at_all_are_no_loss_and_no_error() -> None:
    loss, _ = bound()
    a = torch.tensor(features(3), requires_grad=True)
    nothing = torch.empty(0, dtype=torch.int64)
    value = loss(a, torch.arange(3), (nothing, nothing, nothing))
    value.backward()
    assert value.item() == 0
    assert a.grad is not None
    assert not a.grad.any()


@pytest.mark.parametrize("head", [None, PairHead(4, "plain")], ids=["none", "plain"])
def test_a_loss_without_weights_to_learn_is_refused(head: PairHead | None) -> None:
    with pytest.raises(
        ConfigError, match=r"needs a verification head[\s\S]*head.pair to one of l1, chi2, l2"
    ):
        VerificationLoss().bind(head)


def test_the_optimiser_has_the_head_once(configure: Callable[..., DictConfig]) -> None:
    config = configure("train", "+experiment=koch2015_omniglot")
    module = build_module(config, build_network(SMALL, KOCH), 10)
    head = module.network.pair
    assert head is not None
    assert module.objective.loss.__dict__["head"] is head
    assert not list(module.objective.parameters())
    groups = module.parameter_groups(partial(torch.optim.SGD, lr=0.1))
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in module.parameters())
    assert len(ids) == len(set(ids))
    assert {id(head.weight), id(head.bias)} <= set(ids)
    # Averaging callbacks copy the module: the copy's loss learns the copy's head.
    other = copy.deepcopy(module)
    assert other.objective.loss.__dict__["head"] is other.network.pair is not head

    module.train()
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    before = head.weight.detach().clone()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    value, mined = module.objective(module(images), torch.arange(8) // 2, torch.arange(8) // 2)
    value.backward()
    optimizer.step()
    assert mined == -1
    assert not torch.equal(head.weight, before)


def test_a_network_without_a_head_cannot_take_the_loss(configure: Callable[..., DictConfig]) -> None:
    config = configure("train", "+experiment=koch2015_omniglot")
    with pytest.raises(ConfigError, match="needs a verification head"):
        build_module(config, build_network(SMALL, {"kind": "linear", "dim": 8}), 10)


# --- the network and its checkpoint -----------------------------------------------------------------------------
def network(head: dict | None = None) -> EmbeddingNetwork:
    torch.manual_seed(0)
    return build_network(SMALL, KOCH if head is None else head).eval()


def pictures(n: int = 5) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_a_network_with_a_pair_head_gives_the_heads_own_values() -> None:
    ours = network()
    scaled = (pictures().float() - ours.mean) / ours.std
    with torch.inference_mode():
        expected = torch.sigmoid(ours.head.linear(ours.backbone(scaled)))
        found = ours(pictures())
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert not np.allclose(found.norm(dim=1), 1, atol=0.05)
    unit = network({"kind": "sigmoid", "dim": 8})(pictures())
    assert unit.detach().norm(dim=1).numpy() == pytest.approx(np.ones(5), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_described_network_is_built_again(kind: str) -> None:
    ours = network({**KOCH, "pair": kind})
    again = rebuild(ours.describe())
    again.load_state_dict(ours.state_dict())
    assert again.pair is not None
    assert again.pair.kind == kind
    assert torch.equal(again.eval()(pictures()), ours(pictures()))
    assert model_hash(again) == model_hash(ours)


def test_the_hash_is_of_the_heads_weights_too() -> None:
    ours = network()
    before = model_hash(ours)
    assert ours.pair is not None
    with torch.no_grad():
        ours.pair.bias += 1
    assert model_hash(ours) != before


def test_whitening_is_refused() -> None:
    ours = network()
    with pytest.raises(ConfigError, match=r"unit vectors[\s\S]*head.pair=null"):
        EmbeddingNetwork(ours.backbone, ours.spec, head=KOCH, whiten=4)


def test_a_checkpoint_brings_the_head_back_and_no_join_takes_it(tmp_path: Path) -> None:
    ours = network()
    assert ours.pair is not None
    with torch.no_grad():
        ours.pair.weight.copy_(torch.rand(8, generator=torch.Generator().manual_seed(3)))
    weights = {f"network.{k}": v for k, v in ours.state_dict().items()}
    held = section(ours, InputTransform(32), DISTANCE_OF["l1"], None, "data")
    torch.save({"state_dict": weights, SECTION: held}, tmp_path / "model.ckpt")
    model = load_checkpoint(tmp_path / "model.ckpt")
    assert (model.distance, model.model_hash) == ("verification_head", model_hash(ours))
    assert model.network.pair is not None
    with torch.inference_mode():
        values = model.network(pictures()).numpy()
        assert values == pytest.approx(ours(pictures()).numpy(), abs=1e-6)
    assert model.network.pair.table(values, values) == pytest.approx(
        ours.pair.table(values, values), abs=1e-6
    )
    with pytest.raises(
        CheckpointError, match=r"by a verification head, which no join can use[\s\S]*head.pair=null"
    ):
        EmbeddingFeature(model, batch_size=4)

    del weights["network.pair.bias"]
    torch.save({"state_dict": weights, SECTION: held}, tmp_path / "damaged.ckpt")
    with pytest.raises(CheckpointError, match="do not fit the network it describes"):
        load_checkpoint(tmp_path / "damaged.ckpt")


def test_a_plain_distance_is_refused_by_its_name() -> None:
    ours = network({**KOCH, "pair": "plain"})
    model = TrainedModel(ours, InputTransform(32), DISTANCE_OF["plain"], None, model_hash(ours), "data", {})
    with pytest.raises(CheckpointError, match="by a plain euclidean"):
        EmbeddingFeature(model, batch_size=4)


# --- distances --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PAIR_DISTANCES)
def test_distance_and_similarity_of_a_head_add_up_to_one(name: str) -> None:
    similarity = np.array([1.0, 0.25, 0.0, -7.5, -np.inf])
    distance = np.array([0.0, 0.75, 1.0, 8.5, np.inf])
    assert np.array_equal(to_distance(similarity, name), distance)
    assert np.array_equal(to_similarity(distance, name), similarity)
    assert to_distance(1 - 1e-7, name) == 0
    assert to_similarity(2.5, name) == -1.5
    with pytest.raises(ValueError, match="negative"):
        to_similarity(-0.1, name)
    assert name not in DISTANCES  # what a join, a loss or a miner may be told


def test_every_kind_has_a_distance() -> None:
    assert set(DISTANCE_OF) == set(KINDS)
    assert set(DISTANCE_OF.values()) == set(PAIR_DISTANCES)


# --- pairs of a catalogue -----------------------------------------------------------------------------------------
def some_truth(n: int) -> ImageTruth:
    """Families of three, of which two match; a third of the pictures only answer; some pairs are unsure."""
    component = np.arange(n, dtype=np.int64) // 3
    first = np.arange(0, n - 2, 3, dtype=np.int64)
    gallery = component % 3 == 2
    matching = np.stack([first, first + 1], 1)
    matching = matching[~gallery[matching].all(1)]
    truth = ImageTruth(component, matching, gallery)
    return truth.without(np.array([[0, 5], [9, 1], [n - 2, 0], [6, 20]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("keep", "tile"), [(10_000, 7), (10_000, 2048), (25, 7), (1, 2048)])
def test_scored_pairs_are_those_of_a_loop(kind: str, keep: int, tile: int) -> None:
    n = 30
    head, truth = drawn_head(kind), some_truth(n)
    rows = np.random.default_rng(2).permutation(n)[:27].astype(np.int64)  # three could not be read
    vectors = features(27, 4)
    unsure = {frozenset(p) for p in truth.unsure.tolist()}
    matching = {frozenset(p) for p in truth.matching.tolist()}
    wanted: dict[tuple[int, int], float] = {}
    others: dict[tuple[int, int], float] = {}
    for i, j in combinations(range(27), 2):
        pair = frozenset((int(rows[i]), int(rows[j])))
        value = 1 - naive(head, vectors[i], vectors[j])
        if pair in matching:
            wanted[i, j] = value
        elif (
            truth.component[rows[i]] != truth.component[rows[j]]
            and not (truth.gallery[rows[i]] and truth.gallery[rows[j]])
            and pair not in unsure
        ):
            others[i, j] = value
    found = score_embeddings(vectors, rows, truth, max_nonmatch=keep, tile=tile, similarity=head)
    assert found.n_nonmatch == len(others) > 200
    pairs = list(zip(found.left.tolist(), found.right.tolist(), strict=True))
    of = dict(zip(pairs, found.similarity.tolist(), strict=True))
    assert len(of) == len(pairs)
    assert {p for p, m in zip(pairs, found.is_match, strict=True) if m} == set(wanted)
    best = sorted(others, key=others.__getitem__)[-keep:]
    assert {p for p, m in zip(pairs, found.is_match, strict=True) if not m} == set(best)
    for pair in (*wanted, *best):
        assert of[pair] == pytest.approx((wanted | others)[pair], abs=3e-5)
    if keep < len(others):
        assert found.floor == pytest.approx(min(others[p] for p in best), abs=3e-5)
    else:
        assert found.floor == float("-inf")


@pytest.mark.parametrize("kind", KINDS)
def test_given_episodes_are_answered_as_by_a_loop(kind: str) -> None:
    rng = np.random.default_rng(1)
    head, vectors = drawn_head(kind), features(60, 2)
    supports = np.stack([rng.permutation(60)[:10].reshape(5, 2) for _ in range(12)])
    queries, answer = rng.integers(0, 60, (12, 6)), rng.integers(0, 5, (12, 6))
    right = []
    for shown, asked, told in zip(supports, queries, answer, strict=True):
        for q, of in zip(asked, told, strict=True):
            best = [min(naive(head, vectors[q], vectors[s]) for s in of_class) for of_class in shown]
            right.append(best[of] < min(best[:of] + best[of + 1 :]))
    found = given_episodes(vectors, supports, queries, answer, similarity=head)
    assert 0 < np.mean(right) < 1
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.n_queries == 72
    one = given_episodes(vectors, supports[..., :1], queries, answer, similarity=head)
    assert one == given_episodes(vectors, supports[..., 0], queries, answer, similarity=head)


def test_drawn_episodes_are_the_same_for_every_similarity() -> None:
    labels = np.arange(120) // 4
    vectors = features(120, 3)
    settings = {"n_way": 5, "episodes": 40, "within_group": False, "seed": 2}
    asked = []

    class Spy:
        """The plain distance, which notes what is compared."""

        def rows(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            raise AssertionError("trials ask for tables")

        def table(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            asked.append((a, b))
            return -np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=-1)

    found = one_shot(vectors, labels, similarity=Spy(), **settings)
    plain = one_shot(vectors, labels, similarity=PairHead(DIM, "plain"), **settings)
    assert plain == found
    row_of = {v.tobytes(): k for k, v in enumerate(vectors)}
    right = 0
    for queries, supports in asked:
        q, s = ([row_of[v.tobytes()] for v in part] for part in (queries, supports))
        assert len(set(labels[s])) == 5
        assert sorted(labels[q]) == sorted(labels[s])
        assert not set(q) & set(s)
        nearest = np.linalg.norm(vectors[q][:, None] - vectors[s][None], axis=-1).argmin(1)
        right += int((labels[np.array(s)[nearest]] == labels[q]).sum())
    assert found.accuracy == pytest.approx(right / 200)
    # Features of the class itself are found, whatever their length.
    told = np.eye(30, dtype=np.float32)[labels] * 50
    assert one_shot(told, labels, similarity=PairHead(30, "l1"), **settings).accuracy == 1
