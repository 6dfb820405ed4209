"""Every index against the exact join."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from dedup_helpers import assert_same_pairs, clustered

from siamdedup.dedup import index as index_module
from siamdedup.dedup.index import ExactJoin, FaissJoin, candidate_recall, unit_rows
from siamdedup.dedup.join import ImagePairs, exact_self_join
from siamdedup.dedup.ladder import Traits, choose_factory
from siamdedup.dedup.recall import disjoint_samples, found_among
from siamdedup.errors import ConfigError, SiamdedupError


@pytest.fixture(autouse=True)
def one_thread():
    """Small searches on a busy machine mostly wait for each other's threads."""
    faiss = index_module._faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_flat_is_exact(dtype, threshold):
    vectors = clustered(1500, 32, dtype=dtype)
    vectors[1000:1100] = vectors[:100]
    vectors[1200:1230] = vectors[5]  # a tie as long as a query block
    index = FaissJoin("Flat", gpu=False, query_block=29)
    assert_same_pairs(index.self_join(vectors, threshold), exact_self_join(vectors, threshold))
    assert index.recall_ == 1.0


def test_knn_loses_nothing_to_k():
    """Fast-scan codes have no working range search; 60 equal rows are more than k, and are done again."""
    vectors = clustered(1500, 32)
    vectors[200:260] = vectors[200]
    index = FaissJoin("IVF4,PQ16x4fs", nprobe=4, gpu=False, gpu_k=20, slack=0.3)
    pairs = index.self_join(vectors, 0.95)
    exact = exact_self_join(vectors, 0.95)
    twins = (exact.left >= 200) & (exact.right < 260) & (exact.similarity == 1)
    assert twins.sum() >= 60 * 59 // 2
    got = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert got >= set(zip(exact.left[twins].tolist(), exact.right[twins].tolist(), strict=True))


def test_ivf_is_a_subset_with_exact_values_and_tells_its_recall():
    vectors = clustered(3000, 32, spread=0.4)
    exact = exact_self_join(vectors, 0.7)
    index = FaissJoin("IVF64,Flat", nprobe=1, gpu=False, training_sample=3000, target_recall=0)
    pairs = index.self_join(vectors, 0.7)
    values = {(a, b): s for a, b, s in zip(exact.left, exact.right, exact.similarity, strict=True)}
    assert all(values[a, b] == s for a, b, s in zip(pairs.left, pairs.right, pairs.similarity, strict=True))
    assert 0.3 < index.recall_ < 1
    assert f"{index.recall_:.4f}" in index.describe()
    everything = candidate_recall(vectors, pairs, 0.7, sample=3000)
    assert everything == pytest.approx(len(pairs) / len(exact))
    more = FaissJoin("IVF64_HNSW16,SQfp16", nprobe=16, gpu=False, target_recall=0)
    more.self_join(vectors, 0.7)
    assert more.recall_ > index.recall_


def test_recall_of_pairs_left_out():
    vectors = clustered(300, 16)
    exact = exact_self_join(vectors, 0.8)
    half = ImagePairs(exact.left[::2], exact.right[::2], exact.similarity[::2])
    assert candidate_recall(vectors, half, 0.8, sample=300) == pytest.approx(len(half) / len(exact))
    assert candidate_recall(vectors, exact, 0.8, sample=50) == 1.0
    assert np.isnan(candidate_recall(np.eye(4, dtype=np.float32), half, 0.9))


def test_exact_join_is_the_default_oracle():
    vectors = clustered(200, 16)
    index = ExactJoin(tile=64, device="cpu")
    assert_same_pairs(index.self_join(vectors, 0.8), exact_self_join(vectors, 0.8))
    assert "exact" in index.describe()
    with pytest.raises(SiamdedupError):
        ExactJoin(device="cpu", max_pairs=3).self_join(vectors, 0.5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n):
    vectors = np.ones((n, 4), np.float32)
    for index in (ExactJoin(device="cpu"), FaissJoin(gpu=False)):
        assert len(index.self_join(vectors, 0.9)) == n // 2


def test_refusals():
    vectors = clustered(100, 16)
    for factory, options in (("nonsense", {}), ("IVF200,Flat", {}), ("Flat", {"nprobe": 3})):
        with pytest.raises(ConfigError, match=factory):
            FaissJoin(factory, gpu=False, **options).self_join(vectors, 0.5)
    with pytest.raises(ConfigError):
        FaissJoin(gpu_k=4096)
    for options in ({"gpu": "yes"}, {"target_recall": 1.5}, {"max_effort": 0}, {"memory_gb": 0}):
        with pytest.raises(ConfigError):
            FaissJoin(**options)
    with pytest.raises(SiamdedupError, match="more than 2 pairs"):
        FaissJoin(gpu=False, max_pairs=2).self_join(vectors, 0.0)


LADDER = [
    "Flat",
    "IVF32,Flat",
    "IVF32,SQ8",
    "IVF32,SQfp16",
    "IVF32,PQ8x4fs,Refine(SQfp16)",
    "IVF32,PQ8x4fs,Refine(Flat)",
    "IVF32,RaBitQ,Refine(SQfp16)",
    "IVF32,RaBitQ,RFlat",
    "IVF32_HNSW16,Flat",
    "HNSW16",
    "HNSW16,SQfp16",
]


@pytest.mark.parametrize("factory", LADDER)
def test_every_rung(factory):
    """Same values as the exact join, twins beyond k included, and the recall asked for, judged on all pairs."""
    vectors = clustered(2000, 32, spread=0.3)
    vectors[200:260] = vectors[200]
    index = FaissJoin(factory, gpu=False, gpu_k=40)
    pairs, exact = index.self_join(vectors, 0.8), exact_self_join(vectors, 0.8)
    place = {pair: i for i, pair in enumerate(zip(exact.left, exact.right, strict=True))}
    at = [place[pair] for pair in zip(pairs.left, pairs.right, strict=True)]
    np.testing.assert_array_equal(pairs.similarity, exact.similarity[at])
    assert at == sorted(set(at))
    assert len(pairs) / len(exact) >= 0.99
    assert index.recall_ >= 0.985


def test_effort_is_raised_until_the_target_and_reported_on_other_rows():
    vectors = clustered(3000, 32, spread=0.4)
    low = FaissJoin("IVF64,Flat", nprobe=1, gpu=False, target_recall=0)
    high = FaissJoin("IVF64,Flat", nprobe=1, gpu=False, target_recall=0.98, max_effort=64)
    few, many = len(low.self_join(vectors, 0.7)), high.self_join(vectors, 0.7)
    exact = len(exact_self_join(vectors, 0.7))
    assert few / exact < 0.95 < len(many) / exact
    assert (low.effort_, low.describe().count("nprobe 1,")) == (1, 1)
    assert high.effort_ > 1
    assert f"nprobe {high.effort_}," in high.describe()
    _, reported = disjoint_samples(3000, 1000, 0)
    assert high.recall_ == candidate_recall(vectors, many, 0.7, reported)
    capped = FaissJoin("IVF64,Flat", nprobe=1, gpu=False, max_effort=2)
    capped.self_join(vectors, 0.7)
    assert capped.effort_ == 2
    assert "below the 0.995" in capped.describe()


@pytest.mark.parametrize("n", [2, 5, 100, 4000])
def test_samples_are_disjoint(n):
    decide, report = disjoint_samples(n, 1000, 3)
    both = np.concatenate([decide, report])
    assert len(np.unique(both)) == len(both) == min(n, 2000)
    assert both.min() >= 0
    assert both.max() < n
    assert len(decide) == min(n // 2, 1000)


def test_found_among_slices(monkeypatch):
    monkeypatch.setattr("siamdedup.dedup.recall._SLICE", 7)
    rng = np.random.default_rng(0)
    keys, wanted = (np.unique(rng.integers(0, 2500, size)) for size in (300, 400))
    pairs = ImagePairs(*np.divmod(keys, 50), np.zeros(len(keys), np.float32))
    assert found_among(wanted, pairs, 50) == len(np.intersect1d(keys, wanted))


def test_auto_says_what_it_chose(monkeypatch):
    assert choose_factory(19_999, 128, 4) == "Flat"
    assert choose_factory(10**6, 128, 4) == "IVF4000,Flat"
    assert choose_factory(10**7, 128, 4) == "IVF12649,PQ32x4fs,Refine(SQfp16)"
    assert choose_factory(10**7, 127, 4) == "IVF12649,SQfp16"  # a prime cannot be cut into codes
    assert choose_factory(10**7, 128, 2) == "IVF12649,RaBitQ,Refine(SQ8)"
    assert choose_factory(10**8, 128, 4, on_disk=True) == "IVF40000,SQfp16"
    with pytest.raises(ConfigError, match="lists_on_disk"):
        choose_factory(10**8, 128, 4)
    monkeypatch.setattr("siamdedup.dedup.ladder.EXACT_BELOW", 1000)
    vectors = clustered(3000, 16)
    index = FaissJoin("auto", gpu=False)
    assert len(index.self_join(vectors, 0.9)) >= 0.98 * len(exact_self_join(vectors, 0.9))
    assert "IVF219,Flat (chosen for 3,000" in index.describe()


def test_factories_are_read_as_faiss_reads_them():
    assert Traits.of("IVF65536_HNSW32,PQ32x4fsr,RFlat").cells == 65_536
    assert not Traits.of("IVF65536_HNSW32,Flat").graph
    assert Traits.of("OPQ16,HNSW32").graph
    assert Traits.of("IVF64k,Flat").cells == 65_536
    ranged = {f for f in LADDER if Traits.of(f).ranged}
    assert ranged == {"Flat", "IVF32,Flat", "IVF32,SQ8", "IVF32,SQfp16", "IVF32_HNSW16,Flat"}
    assert [Traits.of(f).lossy for f in ("IVF9,PQ8", "IVF9,RaBitQ", "IVF9,RaBitQ,RFlat")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("factory", ["IVF32,Flat", "IVF32,SQfp16"])
def test_lists_on_disk(tmp_path, factory, monkeypatch):
    vectors = clustered(3000, 32)
    monkeypatch.setattr("siamdedup.dedup.faiss_index._BLOCK", 700)  # several shards, of several blocks
    options = {"gpu": False, "training_sample": 3000, "target_recall": 0}
    memory = FaissJoin(factory, **options).self_join(vectors, 0.8)
    index = FaissJoin(factory, lists_on_disk=str(tmp_path / "lists"), memory_gb=1e-6, **options)
    assert_same_pairs(index.self_join(vectors, 0.8), memory)
    assert list((tmp_path / "lists").iterdir()) == []  # its own lists are gone after a join
    index.build(vectors)
    index.save(tmp_path / "a.index", "m")
    (lists,) = (tmp_path / "lists").iterdir()
    loaded = FaissJoin.load(tmp_path / "a.index", dim=32, model_hash="m", target_recall=0)
    assert_same_pairs(loaded.self_join(vectors, 0.8), memory)
    (tmp_path / lists.name).write_bytes(lists.read_bytes())  # moved beside the index
    lists.unlink()
    assert_same_pairs(FaissJoin.load(tmp_path / "a.index", target_recall=0).self_join(vectors, 0.8), memory)
    with open(tmp_path / lists.name, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(SiamdedupError, match="cut short"):
        FaissJoin.load(tmp_path / "a.index")
    with pytest.raises(ConfigError, match="disk"):
        FaissJoin("HNSW16", gpu=False, lists_on_disk=str(tmp_path)).self_join(vectors, 0.8)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,PQ8x4fs,Refine(SQfp16)", "HNSW16", "IVF16,RaBitQ,RFlat"])
def test_saved_and_loaded(tmp_path, factory):
    vectors = clustered(1000, 32)
    index = FaissJoin(factory, gpu=False, gpu_k=60)
    index.build(vectors)
    index.save(tmp_path / "i.index", "model")
    loaded = FaissJoin.load(tmp_path / "i.index", dim=32, model_hash="model", gpu_k=60)
    assert_same_pairs(loaded.self_join(vectors, 0.85), index.self_join(vectors, 0.85))
    query, row, _ = loaded.search(vectors[:20], 0.85)
    cosine = unit_rows(vectors, np.arange(20)) @ unit_rows(vectors, np.arange(1000)).T
    wanted = set(zip(*map(np.ndarray.tolist, np.nonzero(cosine >= 0.85)), strict=True))
    assert len(wanted & set(zip(query.tolist(), row.tolist(), strict=True))) >= 0.95 * len(wanted)
    with pytest.raises(ConfigError, match="other vectors"):
        loaded.self_join(clustered(1000, 32, seed=1), 0.85)


def test_a_saved_index_that_does_not_fit(tmp_path):
    path = tmp_path / "i.index"
    index = FaissJoin("Flat", gpu=False)
    with pytest.raises(ValueError, match="build or load"):
        index.save(path)
    index.build(clustered(300, 16))
    index.save(path, "a" * 64)
    for wrong, options in (("32", {"dim": 32}), ("another model", {"model_hash": "b" * 64})):
        with pytest.raises(SiamdedupError, match=wrong):
            FaissJoin.load(path, **options)
    whole, card = path.read_bytes(), (tmp_path / "i.index.json").read_text()
    for content, wrong in (
        (whole[:-1], "cut short"),
        (whole + b"0", "longer"),
        (whole[:500] + b"?" + whole[501:], "changed"),
    ):
        path.write_bytes(content)
        with pytest.raises(SiamdedupError, match=wrong):
            FaissJoin.load(path)
    path.unlink()
    with pytest.raises(SiamdedupError, match="not there"):
        FaissJoin.load(path)
    path.write_bytes(whole)
    for text in (card[:-20], "[]", json.dumps({**json.loads(card), "format": 99})):
        (tmp_path / "i.index.json").write_text(text)
        with pytest.raises(SiamdedupError, match="card|format"):
            FaissJoin.load(path)


def test_disk_full_leaves_the_old_index(tmp_path, monkeypatch):
    index = FaissJoin("Flat", gpu=False)
    index.build(clustered(300, 16))
    index.save(tmp_path / "i.index")
    before = (tmp_path / "i.index").read_bytes()
    faiss = index_module._faiss()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faiss, "PyCallbackIOWriter", lambda write, real=faiss.PyCallbackIOWriter: real(full))
    with pytest.raises(SiamdedupError, match="cannot be written"):
        index.save(tmp_path / "i.index")
    assert (tmp_path / "i.index").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_way_of_a_gpu_without_one(monkeypatch, gpus):
    """FAISS as it is, but said to see GPUs that are this CPU: k-NN only, the parameters, the exact redo."""
    real, calls = index_module._faiss(), []

    def to_all(index, co):
        calls.append(("all", co.useFloat16))
        return index

    def to_one(resources, device, index):
        calls.append(("one", device))
        return index

    fake = SimpleNamespace(**vars(real))
    fake.get_num_gpus, fake.index_cpu_to_all_gpus, fake.index_cpu_to_gpu = lambda: gpus, to_all, to_one
    fake.GpuMultipleClonerOptions = fake.StandardGpuResources = SimpleNamespace
    fake.GpuParameterSpace = real.ParameterSpace
    monkeypatch.setattr(index_module, "_faiss", lambda: fake)
    vectors = clustered(1500, 32)
    vectors[300:340] = vectors[300]
    exact = exact_self_join(vectors, 0.9)
    index = FaissJoin("Flat", gpu=True, gpu_k=16)
    assert_same_pairs(index.self_join(vectors, 0.9), exact)
    assert calls == ([("one", 0)] if gpus == 1 else [("all", True)])
    assert "joined exactly" in index.describe()
    cells = FaissJoin("IVF16,Flat", gpu="auto", gpu_k=64)
    assert len(cells.self_join(vectors, 0.9)) >= 0.99 * len(exact)


def test_importing_the_stage_stays_light():
    """faiss only when an index is used, torch only when something is joined."""
    modules = ["join", "index", "products", "groups", "output", "metrics"]
    code = "import sys; " + "; ".join(f"import siamdedup.dedup.{m}" for m in modules)
    code += "; assert not {'faiss', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
