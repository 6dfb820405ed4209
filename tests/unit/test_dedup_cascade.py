"""The cascade against a loop over all pairs of pictures, for every choice of stages."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from dedup_helpers import assert_same_pairs, make_catalog, naive_join
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.catalog.table import read_catalog
from siamdedup.cli.cascading import find_and_decide, optional
from siamdedup.dedup import collapse
from siamdedup.dedup.cascade import CandidatePairs, Cascade, FingerprintStage
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.choice import AutoJoin
from siamdedup.dedup.collapse import Collapsed
from siamdedup.dedup.evidence import picture_pair_weight, product_evidence
from siamdedup.dedup.geometry import COLUMNS, GeometricCheck
from siamdedup.dedup.grey import verify_grey_band
from siamdedup.dedup.index import ExactJoin
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.lookalike import FingerprintRule
from siamdedup.dedup.output import write_duplicates
from siamdedup.dedup.products import hot_images, product_pairs
from siamdedup.dedup.recall import places
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.transforms import InputTransform
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import STAGES, Catalog, Embeddings, OperatingPoint
from siamdedup.verification.distances import to_distance
from siamdedup.verification.prior import FalseMatchCurve

RULE = FingerprintRule(pdq=None, dhash_and_phash=None, phash=None, detail_alone=0.2)  # dHash within 4 bits
THRESHOLD, BEYOND, HOT = 0.15, 0.4, 4


@dataclass
class World:
    """A shop of few distinct contents, each on some pictures; pictures of one content are files of the same bytes."""

    catalog: Catalog
    embeddings: Embeddings
    digest: np.ndarray
    prints: dict[str, Fingerprints]
    content: np.ndarray  # of each image, 0 or 1 of which mod 3 decides what geometry says


def draw(seed, order=None):
    """The same shop whatever ``order`` (seed of a shuffle of its rows) says."""
    rng = np.random.default_rng(seed)
    n_contents, n_images, n_products = 12, 20, 14
    content = rng.integers(0, n_contents, n_images)
    centre = rng.normal(size=(4, 6))
    vectors = centre[rng.integers(0, 4, n_contents)] + 0.35 * rng.normal(size=(n_contents, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    code = rng.integers(0, 3, n_contents).astype(np.uint8)  # codes 0, 1 and 3 are near each other
    bits = np.repeat(np.array([0, 1, 255], np.uint8)[code][:, None], 8, 1) * np.array([1] + [0] * 7, np.uint8)
    bits[code == 2] = 255
    detail = rng.choice([0.1, 0.5], n_contents).astype(np.float32)
    readable = rng.random(n_contents) < 0.9
    shown = [rng.choice(n_images, rng.integers(1, 4), replace=False).tolist() for _ in range(n_products)]
    families = rng.integers(0, 6, n_products).tolist()
    ids = [f"p{k}" for k in range(n_products)]
    if order is not None:
        shuffle = np.random.default_rng(order)
        image, product = shuffle.permutation(n_images), shuffle.permutation(n_products)
        content = content[image]
        place = np.argsort(image)
        shown = [place[shown[p]].tolist() for p in product]
        families, ids = [families[p] for p in product], [ids[p] for p in product]
    catalog = make_catalog([f"f{k}" for k in families], [*shown], ids)
    content = content[: catalog.n_images]
    rows = np.flatnonzero(readable[content])
    digest = np.random.default_rng(1).integers(0, 256, (n_contents, 16)).astype(np.uint8)[content[rows]]
    prints = {"dhash": Fingerprints(bits[content[rows]], rows, detail[content[rows]])}
    return World(catalog, Embeddings(vectors[content[rows]], rows, ""), digest, prints, content)


class Oracle:
    """Stands in for the geometric check: contents whose sum is a multiple of 3 are copies."""

    def __init__(self, content):
        self.content = content
        self.asked = []

    def measure(self, catalog, left, right, progress=None, ledger=None):
        self.asked += list(zip(left.tolist(), right.tolist(), strict=True))
        copy = (self.content[left] + self.content[right]) % 3 == 0
        return np.repeat(copy[:, None], len(COLUMNS), 1).astype(np.float32)

    def verdict(self, measured):
        return measured[:, 0].astype(np.int8)


def run(world, same_bytes, use, index, geometry):
    stage = None if use is None else FingerprintStage(use, RULE)
    cascade = Cascade(index, stage, same_bytes, recall_sample=0)
    found = cascade.run(
        world.catalog.n_images, world.embeddings, 1 - BEYOND, digest=world.digest, prints=world.prints
    )
    if geometry:
        check = Oracle(world.content)
        found = verify_grey_band(world.catalog, found, check, THRESHOLD, BEYOND, max_families_per_image=HOT)
    return found


def merged(world, found):
    return product_pairs(
        world.catalog, found.embeddings.image_rows, found.found, alias=found.alias, max_families_per_image=HOT
    )


def one_by_one(world, same_bytes, use, joined, geometry):
    """{(left, right): (distance, stage, left image, right image)} from the documented rules."""
    catalog, rows = world.catalog, world.embeddings.image_rows.tolist()
    x = world.embeddings.vectors.astype(np.float64)
    label, content = catalog.labels, world.content
    shows = [set(catalog.images_of(p).tolist()) for p in range(catalog.n_products)]

    def one(i, j):
        return i == j or (same_bytes and content[i] == content[j])

    def hot(i):
        alike = {j for j in range(catalog.n_images) if j == i or (same_bytes and i in rows and one(i, j))}
        return len({label[p] for p in range(catalog.n_products) if shows[p] & alike}) > HOT

    def evidence(i, j):
        if i == j:
            return [(0.0, "same image")]
        if one(i, j):
            return [(0.0, "same bytes")]
        v, w = rows.index(i), rows.index(j)
        cosine = np.float32(min(1.0, x[v] @ x[w] / np.sqrt((x[v] @ x[v]) * (x[w] @ x[w]))))
        apart, found = float(np.float32(to_distance(float(cosine), "cosine"))), []
        near = apart <= BEYOND + 1e-6
        prints = world.prints["dhash"]
        bits = sum(int(a ^ b).bit_count() for a, b in zip(prints.bits[v], prints.bits[w], strict=True))
        agree = bits <= 4 and min(prints.detail[v], prints.detail[w]) >= np.float32(0.2)
        if agree and use == "trusted":
            found.append((0.0, "fingerprint"))
        if agree and use == "candidates" and near:
            found.append((apart, "fingerprint"))
        if joined and near:
            found.append((apart, "embedding"))
        if geometry and found and THRESHOLD < min(found)[0] <= BEYOND and (content[i] + content[j]) % 3 == 0:
            found.append((0.0, "geometry"))
        return found

    wanted = {}
    for p, q in itertools.combinations(range(catalog.n_products), 2):
        if label[p] == label[q]:
            continue
        every = [
            (apart, STAGES.index(stage), i, j)
            for i in shows[p]
            for j in shows[q]
            if i in rows and j in rows and not hot(i) and not hot(j)
            for apart, stage in evidence(i, j)
        ]
        if every:
            wanted[p, q] = min(every)
    return wanted


def listed(pairs):
    columns = (pairs.left, pairs.right, pairs.distance, pairs.stage, pairs.left_image, pairs.right_image)
    return {(p, q): rest for p, q, *rest in zip(*(c.tolist() for c in columns), strict=True)}


CHOICES = list(
    itertools.product([True, False], [None, "candidates", "trusted"], [True, False], [True, False])
)


@pytest.mark.parametrize(("same_bytes", "use", "joined", "geometry"), CHOICES)
def test_every_choice_of_stages_against_a_loop(same_bytes, use, joined, geometry):
    some, stages = 0, set()
    for seed in range(12):
        world = draw(seed)
        found = run(world, same_bytes, use, ExactJoin(device="cpu") if joined else None, geometry)
        got, wanted = listed(merged(world, found)), one_by_one(world, same_bytes, use, joined, geometry)
        assert got.keys() == wanted.keys()
        for pair, (apart, *rest) in wanted.items():
            assert got[pair][0] == pytest.approx(apart, abs=2e-7)
            assert got[pair][1:] == rest
        some += len(wanted)
        stages |= {STAGES[stage] for _, stage, *_ in got.values()}
        chosen = {"same bytes": same_bytes, "fingerprint": use, "embedding": joined, "geometry": geometry}
        assert [s.stage for s in found.stages] == [name for name, chosen_ in chosen.items() if chosen_]
    assert some > 20
    assert ("same bytes" in stages) == same_bytes
    assert ("embedding" in stages) == joined
    assert ("fingerprint" in stages) == bool(use)
    assert geometry >= ("geometry" in stages)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_order_of_rows_does_not_change_the_json(tmp_path_factory, seed, order):
    texts = []
    for world in (draw(seed), draw(seed, order)):
        pairs = merged(world, run(world, True, "trusted", ExactJoin(device="cpu"), True))
        pairs = pairs.take(pairs.distance <= THRESHOLD)
        folder = tmp_path_factory.mktemp("json")
        texts.append(write_duplicates(folder, world.catalog, pairs, ["json"])["json"].read_bytes())
    assert texts[0] == texts[1]


def test_geometry_is_asked_only_of_pairs_that_could_pair_products():
    """Images 0, 1 of one family, 2 of another and 3 of many: (0, 1) and all of 3 are not looked at."""
    catalog = make_catalog(["a", "a", "b", "c", "d", "e", "f", "g"], [[0], [1], [2], [3], [3], [3], [3], [3]])
    vectors = np.repeat(np.array([[1, 0]], np.float32), 4, 0)
    vectors[:, 1] = [0, 0.7, 1.4, 2.1]
    embeddings = Embeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(4), "")
    found = CandidatePairs(embeddings, None, {"embedding": naive_join(vectors, -1.0)})
    check = Oracle(np.zeros(4, int))
    done = verify_grey_band(catalog, found, check, 0.05, 2.0, max_families_per_image=4)
    assert sorted(check.asked) == [(0, 2), (1, 2)]
    assert_same_pairs(
        done.found["geometry"], ImagePairs(np.array([0, 1]), np.array([2, 2]), np.ones(2, np.float32))
    )
    assert done.by_cosine().found.keys() == {"embedding"}
    assert (done.stages[-1].taken, done.stages[-1].found) == (2, 2)


def test_a_cropped_copy_in_the_grey_band_is_found_by_sift(tmp_path):
    rng = np.random.default_rng(0)
    first, other = (cv2.resize(rng.integers(0, 256, (40, 40, 3), np.uint8), (320, 320)) for _ in range(2))
    for name, picture in (("0.png", first), ("1.png", first[20:300, 10:290]), ("2.png", other)):
        cv2.imwrite(str(tmp_path / name), picture)
    catalog = replace(make_catalog("abc"), root=tmp_path)
    catalog = replace(
        catalog, image_paths=catalog.image_paths.__class__.from_pandas(["0.png", "1.png", "2.png"])
    )
    vectors = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.8, 0, 0.6]], np.float32)
    found = CandidatePairs(
        Embeddings(vectors, np.arange(3), ""), None, {"embedding": naive_join(vectors, 0.5)}
    )
    done = verify_grey_band(catalog, found, GeometricCheck(workers=1), 0.1, 0.4)
    assert (done.found["geometry"].left.tolist(), done.found["geometry"].right.tolist()) == ([0], [1])


def test_one_file_under_many_names_is_hot_and_joined_once():
    """A placeholder stored anew for each of six families, and one picture of its own for each."""
    catalog = make_catalog("abcdef", [[k, 6 + k] for k in range(6)])
    vectors = np.vstack([np.repeat(np.eye(7)[:1], 6, 0), np.eye(7)[1:]]).astype(np.float32)
    digest = np.zeros((12, 16), np.uint8)
    digest[6:, 0] = np.arange(1, 7)
    cascade = Cascade(ExactJoin(device="cpu"), None)
    found = cascade.run(12, Embeddings(vectors, np.arange(12), ""), 0.9, digest=digest)
    assert found.embeddings.image_rows.tolist() == [0, *range(6, 12)]
    assert found.stages[0].found == 5
    rows = found.embeddings.image_rows
    assert len(product_pairs(catalog, rows, found.found, alias=found.alias)) == 15
    assert not len(product_pairs(catalog, rows, found.found, alias=found.alias, max_families_per_image=5))
    assert hot_images(catalog, 5, alias=found.alias).tolist() == list(range(6))


def test_a_digest_that_two_pictures_share_does_not_make_them_one():
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    embeddings = Embeddings(vectors, np.array([1, 3, 4, 8]), "")
    made = Collapsed.of(embeddings, np.zeros((4, 16), np.uint8), 9)
    assert made.alias.tolist() == [0, 1, 2, 3, 1, 5, 6, 7, 8]
    assert (made.kept.tolist(), made.place.tolist(), made.refused) == ([0, 1, 3], [0, 1, 0, 2], 2)
    nothing = Collapsed.of(embeddings, None, 9)
    assert not nothing.any
    assert nothing.representatives(embeddings) is embeddings
    with pytest.raises(ValueError, match="digest"):
        Collapsed.of(embeddings, np.zeros((3, 16), np.uint8), 9)
    with pytest.raises(ValueError, match="ascend"):
        Collapsed.of(replace(embeddings, image_rows=np.array([3, 1, 4, 8])), np.zeros((4, 16), np.uint8), 9)
    empty = Collapsed.of(
        Embeddings(np.empty((0, 2), np.float16), np.empty(0, int), ""), np.empty((0, 16), np.uint8), 2
    )
    assert (empty.alias.tolist(), len(empty.kept)) == ([0, 1], 0)


def test_representatives_lie_in_a_file_where_they_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "_HELD", 0)
    monkeypatch.setattr(collapse, "_BLOCK", 3)
    world = draw(3)
    made = Collapsed.of(world.embeddings, world.digest, world.catalog.n_images)
    found = made.representatives(world.embeddings, tmp_path / "cache")
    assert isinstance(found.vectors, np.memmap)
    assert (found.vectors == world.embeddings.vectors[made.kept]).all()
    assert (found.image_rows == world.embeddings.image_rows[made.kept]).all()


def test_recall_of_collapsing_is_one_until_vectors_differ():
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    vectors[30:] = vectors[:30]
    digest = np.zeros((60, 16), np.uint8)
    digest[:, 0] = np.arange(60) % 30
    embeddings = Embeddings(vectors, np.arange(60), "")
    assert Collapsed.of(embeddings, digest, 60).recall(vectors, 0.7, 100) == 1
    vectors[30:] += 0.01 * rng.normal(size=(30, 4)).astype(np.float32)
    made = Collapsed.of(embeddings, digest, 60)
    first = made.kept[made.place]
    copies = np.flatnonzero(first != np.arange(60))
    assert len(copies) > 20
    truth, still = naive_join(vectors, 0.7), naive_join(vectors[:30], 0.7)
    known = set(zip(still.left.tolist(), still.right.tolist(), strict=True))
    kept = []
    for i, j in zip(truth.left, truth.right, strict=True):
        if i in copies or j in copies:
            a, b = sorted((int(first[i]), int(first[j])))
            if max(a, b) >= 30:  # one that was refused: compared as it is
                x = vectors[[a, b]] / np.linalg.norm(vectors[[a, b]], axis=1, keepdims=True)
                kept.append(float(x[0] @ x[1]) >= 0.7)
            else:
                kept.append(a == b or (a, b) in known)
    assert made.recall(vectors, 0.7, 100) == pytest.approx(np.mean(kept))
    assert np.mean(kept) < 1


class Lossy:
    """Finds every other pair."""

    def self_join(self, vectors, min_similarity, progress=None):
        every = naive_join(vectors, min_similarity)
        return ImagePairs(every.left[::2], every.right[::2], every.similarity[::2])

    def describe(self):
        return "every other pair"


@pytest.mark.parametrize("use", [None, "candidates", "trusted"])
def test_recall_is_that_of_the_stages_so_far(use):
    for seed in range(8):
        world = draw(seed)
        cascade = Cascade(Lossy(), use and FingerprintStage(use, RULE), recall_sample=1000)
        found = cascade.run(
            world.catalog.n_images, world.embeddings, 1 - BEYOND, digest=world.digest, prints=world.prints
        )
        assert found.stages[0].recall == 1
        truth = naive_join(found.embeddings.vectors, 1 - BEYOND)
        truth = set(zip(truth.left.tolist(), truth.right.tolist(), strict=True))
        known = set()
        for stage in found.stages[1:]:
            pairs = found.found[stage.stage]
            known |= set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
            wanted = len(truth & known) / len(truth) if truth else float("nan")
            assert stage.recall == pytest.approx(wanted, nan_ok=True)
            assert stage.to_dict()["recall"] == (None if not truth else pytest.approx(wanted, abs=1e-6))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_united_keeps_each_pair_once_at_its_largest_similarity(seed, slice_):
    rng = np.random.default_rng(seed)
    n, found, wanted = 9, {}, {}
    for stage in ("fingerprint", "geometry", "embedding"):
        keys = np.sort(rng.choice(n * n, rng.integers(0, 30), replace=False))
        keys = keys[keys // n < keys % n]
        similarity = rng.choice(np.array([0.5, 0.75, 1.0], np.float32), len(keys))
        found[stage] = ImagePairs(keys // n, keys % n, similarity)
        for key, s in zip(keys.tolist(), similarity.tolist(), strict=True):
            wanted[key] = max(s, wanted.get(key, -1))
        asked = np.sort(rng.choice(n * n, 20, replace=False))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("siamdedup.dedup.recall._SLICE", slice_)
            at = places(asked, found[stage], n)
        assert (at >= 0).tolist() == np.isin(asked, keys).tolist()
        assert (keys[at[at >= 0]] == asked[at >= 0]).all()
    every = CandidatePairs(Embeddings(np.eye(n, dtype=np.float32), np.arange(n), ""), None, found)
    got = every.united()
    assert dict(zip((got.left * n + got.right).tolist(), got.similarity.tolist(), strict=True)) == wanted
    assert (np.diff(got.left * n + got.right) > 0).all()
    near = every.within(0.75)
    assert [len(p) for p in near.found.values()] == [
        int((p.similarity >= 0.75).sum()) for p in found.values()
    ]


def test_evidence_of_collapsed_pictures_is_that_of_one_picture():
    for seed in range(10):
        world = draw(seed)
        found = run(world, True, None, ExactJoin(device="cpu"), False)
        assert found.alias is not None
        pairs = merged(world, found)
        single = replace(world.catalog, image_index=found.alias[world.catalog.image_index])
        moved = replace(
            pairs, left_image=found.alias[pairs.left_image], right_image=found.alias[pairs.right_image]
        )
        got = product_evidence(
            world.catalog, found.embeddings, pairs,
            fingerprints=world.prints, alias=found.alias, max_families_per_image=HOT,
        )  # fmt: skip
        wanted = product_evidence(
            single, found.embeddings, moved, fingerprints=world.prints, max_families_per_image=HOT
        )
        assert (got.values == wanted.values).all()
        assert (picture_pair_weight(pairs, found.alias) == picture_pair_weight(moved)).all()


def test_an_unknown_use_and_missing_input_are_refused():
    with pytest.raises(ConfigError, match="fingerprint.use"):
        FingerprintStage("maybe")
    world = draw(0)
    for cascade in (Cascade(None), Cascade(None, FingerprintStage(), same_bytes=False)):
        with pytest.raises(ValueError, match="needs"):
            cascade.run(world.catalog.n_images, world.embeddings, 0.5)


def test_nothing_readable_finds_nothing():
    none = Embeddings(np.empty((0, 4), np.float16), np.empty(0, np.int64), "")
    prints = {
        "dhash": Fingerprints(np.empty((0, 8), np.uint8), np.empty(0, np.int64), np.empty(0, np.float32))
    }
    cascade = Cascade(ExactJoin(device="cpu"), FingerprintStage("trusted", RULE))
    found = cascade.run(3, none, 0.5, digest=np.empty((0, 16), np.uint8), prints=prints)
    assert (found.alias, len(found.united())) == (None, 0)


def test_auto_says_what_it_chose():
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    auto = AutoJoin(device="cpu")
    assert_same_pairs(auto.self_join(vectors, 0.6), naive_join(vectors, 0.6), atol=1e-6)
    assert "chosen for 300 vectors" in auto.describe()
    assert isinstance(auto.choose(29_999)[0], ExactJoin)
    assert isinstance(auto.choose(30_000)[0], CellJoin)
    assert isinstance(AutoJoin(device="cuda").choose(30_000)[0], ExactJoin)
    cells = AutoJoin(device="cpu", exact_below=0, target_recall=0.9, max_pairs=7, memory_gb=2).choose(5)[0]
    assert cells == CellJoin(target_recall=0.9, max_pairs=7, memory_gb=2)


@pytest.mark.parametrize("geometry", ["none", "sift"])
def test_certain_stages_add_merges_and_leave_the_threshold(configure, tiny_catalog, tmp_path, geometry):
    """Every two pictures of like colour agree by fingerprint here: a threshold that followed them would be another."""
    catalog = read_catalog(tiny_catalog)
    n = catalog.n_images
    vectors = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = Embeddings(vectors, np.arange(n), "")
    bits = np.repeat((np.arange(n) % 6).astype(np.uint8)[:, None] * 40, 8, 1)
    prints = {name: Fingerprints(bits, np.arange(n), np.ones(n, np.float32)) for name in ("dhash", "phash")}
    prints["pdq"] = Fingerprints(np.repeat(bits, 4, 1), np.arange(n), np.ones(n, np.float32))
    digest = np.random.default_rng(1).integers(0, 256, (n, 16)).astype(np.uint8)
    point = OperatingPoint(
        0.3, "cosine", "precision>=0.9", 1e-3, 0.2, 0.9, 0.8, 0.85, 50, 10_000, precision_goal=0.9
    )
    curve = FalseMatchCurve((0.01, 0.31), (1e-6, 0.5), (0.0, 0.4), (1e-4, 0.6), 10_000)
    model = TrainedModel(  # type: ignore[arg-type]
        None, InputTransform(8), "cosine", point, "", "", {"false_matches": curve.to_dict()}
    )
    decided = {}
    for use in ("none", "candidates", "trusted"):
        config = configure(
            "dedup", f"fingerprint={use}", f"geometry={geometry}", "index=exact", "recall_sample=50"
        )
        cascade = Cascade(optional(config.index), optional(config.fingerprint))
        decided[use] = find_and_decide(
            config, cascade, model, (0.3, point), catalog, embeddings, prints, digest,
            radius=0.3, ledger=None, folder=tmp_path,
        )  # fmt: skip
    plain, same, more = (decided[use] for use in ("none", "candidates", "trusted"))
    assert plain.decision.threshold == same.decision.threshold == more.decision.threshold < 0.3
    assert plain.decision.source == more.decision.source
    expected = [one.decision.lines["by false match rate"] for one in (plain, more)]
    assert expected[0] == expected[1] != "unknown"
    keys = [
        {k: v[0] for k, v in listed(one.pairs.take(one.pairs.distance <= one.decision.threshold)).items()}
        for one in (plain, same, more)
    ]
    assert keys[0] == keys[1]
    assert keys[0].keys() < keys[2].keys()
    assert all(keys[2][k] in (0, v) for k, v in keys[0].items())
    assert {STAGES[s] for s in more.pairs.stage} >= {"fingerprint", "embedding"}
    assert more.pairs.distance.max() <= 0.3 + 1e-6, "the grey band is looked at, not kept"
    assert more.candidates.stages[-1].found == len(keys[2])
