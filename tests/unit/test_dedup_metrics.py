"""Right, neutral and wrong pairs by hand."""

import numpy as np
import pytest
from dedup_helpers import make_catalog, make_pairs

from siamdedup.dedup.metrics import product_metrics, verdicts


def shop(**truth):
    """Family o: red in two sizes (0, 1: picture 0), blue (2). Family r relists red in two sizes (3, 4).

    Family x (5) is something else.
    """
    images = [[0, 9], [0], [1], [2], [2], [3]]
    return make_catalog(["o", "o", "o", "r", "r", "x"], images, **truth)


LISTED = {"relisted": [(3, 0)], "levels": ["hard"], "relisted_image": [(2, 0)]}


@pytest.mark.parametrize("image", [[(2, 0)], [(-1, -1)]])
def test_kinds_of_pairs(image):
    catalog = shop(**{**LISTED, "relisted_image": image})
    kinds = {(0, 3): "right", (1, 4): "right", (0, 4): "right", (2, 3): "neutral", (2, 5): "wrong"}
    for (a, b), kind in kinds.items():
        metrics = product_metrics(catalog, make_pairs([(a, b, 0.1)]))
        assert {k: metrics[k] for k in ("right", "neutral", "wrong")} == {
            k: int(k == kind) for k in ("right", "neutral", "wrong")
        }


def test_only_the_copied_picture_counts_where_it_is_known():
    """Product 2 shares picture 9 with product 0, but the copy was made from picture 0."""
    images = [[0, 9], [0], [9], [2], [2], [3]]
    families = ["o", "o", "o", "r", "r", "x"]
    for image, kind in (([(2, 0)], "neutral"), ([(-1, -1)], "right")):
        catalog = make_catalog(families, images, relisted=[(3, 0)], levels=["easy"], relisted_image=image)
        assert product_metrics(catalog, make_pairs([(2, 3, 0.1)]))[kind] == 1


def test_verdict_of_each_pair():
    pairs = make_pairs([(0, 3, 0.1), (2, 3, 0.1), (4, 5, 0.1)])
    assert verdicts(shop(**LISTED), pairs).tolist() == ["right", "", "wrong"]
    assert verdicts(shop(**LISTED), make_pairs([])).tolist() == []


def test_rates():
    catalog = shop(**LISTED)
    metrics = product_metrics(catalog, make_pairs([(0, 3, 0.1), (1, 3, 0.1), (2, 3, 0.1), (4, 5, 0.1)]))
    assert metrics["precision"] == pytest.approx(2 / 3)
    assert metrics["recall"] == 1.0
    assert metrics["f1"] == pytest.approx(0.8)
    assert (metrics["n_pairs"], metrics["n_truth"], metrics["found"]) == (4, 1, 1)


def test_recall_by_level_counts_each_listed_pair_once():
    catalog = make_catalog(
        range(6),
        relisted=[(3, 0), (0, 3), (4, 1), (5, 2)],
        levels=["easy", "hard", "hard", ""],
    )
    metrics = product_metrics(catalog, make_pairs([(0, 3, 0.1), (2, 5, 0.1)]))
    assert metrics["n_truth"] == 3
    assert metrics["recall"] == pytest.approx(2 / 3)
    assert list(metrics["by_level"]) == ["easy", "hard", "unspecified"]
    assert {level: row["recall"] for level, row in metrics["by_level"].items()} == {
        "easy": 1.0,
        "hard": 0.0,
        "unspecified": 1.0,
    }


def test_families_tied_through_a_third_are_neutral():
    catalog = make_catalog("abcd", relisted=[(0, 1), (1, 2)], levels=["easy", "easy"])
    metrics = product_metrics(catalog, make_pairs([(0, 2, 0.1), (0, 3, 0.1)]))
    assert (metrics["neutral"], metrics["wrong"]) == (1, 1)
    assert metrics["precision"] == 0
    assert metrics["f1"] == 0


def test_undefined_without_truth_or_pairs():
    for catalog in (make_catalog("ab"), make_catalog([])):
        metrics = product_metrics(catalog, make_pairs([]))
        assert metrics["precision"] is None
        assert metrics["recall"] is None
        assert metrics["f1"] is None
        assert metrics["by_level"] == {}


def test_row_order_of_many_pairs():
    """A large random case against sets."""
    rng = np.random.default_rng(0)
    families = rng.integers(0, 60, 200)
    images = [[int(f) * 3 + int(i)] for f, i in zip(families, rng.integers(0, 3, 200), strict=True)]
    listed = [(a, b) for a, b in rng.integers(0, 200, (30, 2)).tolist() if families[a] != families[b]]
    catalog = make_catalog(families.tolist(), images, relisted=listed, levels=["easy"] * len(listed))
    edges = {(min(a, b), max(a, b)) for a, b in rng.integers(0, 200, (3000, 2)).tolist()}
    edges = [(a, b, 0.1) for a, b in edges if families[a] != families[b]]
    look = [(families[i], images[i][0]) for i in range(200)]
    same = {(look[a], look[b]) for a, b in listed} | {(look[b], look[a]) for a, b in listed}
    metrics = product_metrics(catalog, make_pairs(edges))
    assert metrics["right"] == sum((look[a], look[b]) in same for a, b, _ in edges) > 0
    assert metrics["right"] + metrics["neutral"] + metrics["wrong"] == len(edges)
