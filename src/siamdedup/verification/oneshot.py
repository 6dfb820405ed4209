"""N-way K-shot evaluation: is a picture of a never-seen class found among N classes shown K times each?

An episode (a trial, for Lake) shows ``k_shot`` support pictures of each of ``n_way`` classes and asks, for each
query, whose it is. Lake et al. 2015 and Koch et al. 2015 draw the classes of one alphabet (for a shop, of one
category) and show each once; their fixed 20 runs go through :func:`given_episodes`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from siamdedup.errors import SiamdedupError
from siamdedup.types import BoolArray, IntArray
from siamdedup.verification.distances import IDENTICAL, Float64Array, Floats
from siamdedup.verification.pairs import PairSimilarity

SUPPORTS = ("mean", "best")
_FLOATS = 1 << 24  # float32 values of one block of episodes: 64 MB
_RESAMPLES = 2000


class OneShot(NamedTuple):
    """Accuracy of naming the class of a query, 1 / n_way by chance.

    Attributes:
        accuracy: share of all queries answered right; ties are wrong.
        ci: 95 % percentile bootstrap interval over the ``n_units`` units; NaN where there is one unit. With fewer
            than some 20 units it is a little too narrow, and where every unit scored alike it has no width: do
            not read that as a bound.
        units: "groups" or "episodes": what was taken as independent and resampled. Over groups the interval
            speaks for other alphabets or categories; over episodes only for other draws of the same classes.
        n_units, n_queries: how many of them.
        per_group: accuracy of each group's queries, by its value in ``groups``; empty without groups.
        left_out: groups with too few classes or pictures for one episode.
    """

    accuracy: float
    ci: tuple[float, float]
    units: str
    n_units: int
    n_queries: int
    per_group: dict[Any, float]
    left_out: tuple[Any, ...] = ()


def one_shot(
    vectors: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    groups: npt.NDArray[Any] | None = None,
    *,
    n_way: int = 20,
    k_shot: int = 1,
    episodes: int = 400,
    queries_per_episode: int | None = None,
    within_group: bool = True,
    support: str = "mean",
    seed: int = 0,
    similarity: PairSimilarity | None = None,
) -> OneShot:
    """Accuracy over drawn episodes: classes and pictures without replacement within an episode.

    Queries are other pictures than the supports, spread evenly over the episode's classes.

    Args:
        vectors: float (n, d), finite and not zero; their cosine ranks the classes.
        labels: (n,), the class of each vector.
        groups: (n,), the group of each vector, the same for all of a class.
        queries_per_episode: default ``n_way``, one of each class.
        within_group: draw the classes of an episode from one group, each group in turn (it needs ``groups``, and
            ``episodes`` should be a multiple of their number); otherwise from all classes, and then the episodes
            are the independent units.
        support: see :func:`given_episodes`.

    Raises:
        SiamdedupError: no group (or not the whole) has ``n_way`` classes with enough pictures.
        ValueError: shapes do not fit, a class lies in two groups, counts < 1 or ``n_way`` < 2.
    """
    labels = np.asarray(labels)
    if vectors.ndim != 2 or labels.shape != (len(vectors),):
        raise ValueError(f"need vectors (n, d) and n labels, not {vectors.shape} and {labels.shape}")
    queries_per_episode = n_way if queries_per_episode is None else queries_per_episode
    if n_way < 2 or min(k_shot, episodes, queries_per_episode) < 1:
        raise ValueError("n_way must be at least 2; k_shot, episodes and queries_per_episode at least 1")
    if within_group and groups is None:
        raise ValueError("within_group needs groups")
    label, size = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    first = np.cumsum(size) - size  # class c holds the pictures of_class[first[c]:first[c] + size[c]]
    of_class = np.argsort(label, kind="stable")
    names, group = _class_groups(groups if within_group else None, label, of_class[first])
    each = -(-queries_per_episode // n_way)
    enough = size >= k_shot + each
    held = np.bincount(group[enough], minlength=len(names))
    usable = np.flatnonzero(held >= n_way)
    if not len(usable):
        raise SiamdedupError(
            f"{n_way}-way {k_shot}-shot with {queries_per_episode} queries needs {n_way} classes with at least "
            f"{k_shot + each} pictures {'in one group' if within_group else 'in all'}; "
            f"there are at most {int(held.max(initial=0))}",
            remedy="lower n_way, k_shot or queries_per_episode"
            + (", or draw across groups (within_group=False)" if within_group else ""),
        )
    rng = np.random.default_rng(seed)
    drawn = np.resize(rng.permutation(usable), episodes)
    classes = np.empty((episodes, n_way), np.int64)
    for g in usable:
        here = np.flatnonzero(enough & (group == g))
        turn = drawn == g
        classes[turn] = here[_distinct(rng, np.full(int(turn.sum()), len(here)), n_way)]
    shown = _distinct(rng, size[classes.ravel()], k_shot + each).reshape(episodes, n_way, -1)
    rows = of_class[first[classes][..., None] + shown]
    # Classes stand in random order, so a remainder of queries favours none.
    answer = np.tile(np.tile(np.arange(n_way), each)[:queries_per_episode], (episodes, 1))
    turn_of = np.tile(np.repeat(np.arange(each), n_way)[:queries_per_episode], (episodes, 1))
    query = rows[np.arange(episodes)[:, None], answer, k_shot + turn_of]
    right = _answer(vectors, rows[..., :k_shot], query, answer, support, similarity)
    left_out = tuple(names[np.setdiff1d(np.arange(len(names)), usable)].tolist())
    return _summary(right, names[drawn] if within_group else None, left_out)


def given_episodes(
    vectors: npt.NDArray[Any],
    support_rows: IntArray,
    query_rows: IntArray,
    answer: IntArray,
    groups: npt.NDArray[Any] | None = None,
    *,
    support: str = "mean",
    similarity: PairSimilarity | None = None,
) -> OneShot:
    """Accuracy over given episodes; Lake's 20 runs of 20 trials are (20, 20), (20, 20) and (20, 20).

    Args:
        vectors: float (n, d), finite and not zero; their cosine ranks the classes.
        support_rows: int64 (episodes, n_way) or (episodes, n_way, k_shot), rows of ``vectors``.
        query_rows: int64 (episodes, queries).
        answer: int64 (episodes, queries), the place of the right class in 0..n_way-1.
        groups: (episodes,), the group of each episode, which is then the independent unit.
        similarity: compares features of any length, each query with its most similar support; without it, cosine.
        support: "mean" compares a query with the mean of a class's support unit vectors, of unit length again;
            "best" with its most similar support.

    Raises:
        ValueError: shapes or row numbers do not fit, or a vector that is used is zero or not finite.
    """
    if support_rows.ndim == 2:
        support_rows = support_rows[..., None]
    right = _answer(vectors, support_rows, query_rows, answer, support, similarity)
    if groups is not None and np.shape(groups) != (len(right),):
        raise ValueError(f"{len(right)} episodes need as many groups, not {np.shape(groups)}")
    return _summary(right, None if groups is None else np.asarray(groups), ())


def score_trials(similarity: Floats, answer: IntArray, *, tie: float = IDENTICAL) -> BoolArray:
    """bool (...,): whether the class at ``answer`` (...,) is the most similar of ``similarity`` (..., n_way).

    It must lead by more than ``tie``: float32 sums of equal vectors differ by some 1e-7 with their place in a
    product. Larger is closer, in any unit (``-distance`` serves; with ``tie=0`` where it is exact). ValueError
    for NaN, shapes that do not fit or an answer that is none of the classes.
    """
    similarity, answer = np.asarray(similarity), np.asarray(answer, np.int64)
    if similarity.shape[:-1] != answer.shape or similarity.ndim < 1 or np.isnan(similarity).any():
        raise ValueError(f"similarity {similarity.shape} must fit answers {answer.shape} and hold no NaN")
    n_way = similarity.shape[-1]
    if n_way < 2 or (answer.size and (answer.min() < 0 or answer.max() >= n_way)):
        raise ValueError(f"answers must lie in 0..{n_way - 1}, of at least two classes")
    place = answer[..., None]
    own = np.take_along_axis(similarity, place, -1)[..., 0].astype(np.float64)
    others = similarity.astype(np.float64)
    np.put_along_axis(others, place, -np.inf, -1)
    return np.asarray(own > others.max(-1) + tie)


def _class_groups(
    groups: npt.NDArray[Any] | None, label: IntArray, one_of_class: IntArray
) -> tuple[npt.NDArray[Any], IntArray]:
    """Names of the groups, and the number of each class's group."""
    if groups is None:
        return np.zeros(1, np.int64), np.zeros(len(one_of_class), np.int64)
    if np.shape(groups) != label.shape:
        raise ValueError(f"{len(label)} vectors need as many groups, not {np.shape(groups)}")
    names, group = np.unique(groups, return_inverse=True)
    of_class = group[one_of_class]
    if (of_class[label] != group).any():
        raise ValueError("a class lies in two groups")
    return names, of_class


def _distinct(rng: np.random.Generator, sizes: IntArray, m: int) -> IntArray:
    """int64 (len(sizes), m): in each row, ``m`` different numbers below its size, in random order."""
    drawn = np.empty((len(sizes), m), np.int64)
    for j in range(m):
        number = rng.integers(0, sizes - j)
        # The number-th of those not taken yet: the i-th taken one, sorted, leaves taken[i] - i free ones below it.
        free_below = np.sort(drawn[:, :j], 1) - np.arange(j)
        drawn[:, j] = number + (free_below <= number[:, None]).sum(1)
    return drawn


def _answer(
    vectors: npt.NDArray[Any],
    supports: IntArray,
    queries: IntArray,
    answer: IntArray,
    support: str,
    similarity: PairSimilarity | None = None,
) -> BoolArray:
    """bool (episodes, queries): whether each query was answered right. Episodes go block by block."""
    if support not in SUPPORTS:
        raise ValueError(f"unknown support {support!r}: one of {', '.join(SUPPORTS)}")
    if vectors.ndim != 2 or supports.ndim != 3 or queries.ndim != 2 or len(supports) != len(queries):
        raise ValueError(
            f"need vectors (n, d), supports (episodes, n_way[, k_shot]) and queries (episodes, queries), not "
            f"{vectors.shape}, {supports.shape} and {queries.shape}"
        )
    if answer.shape != queries.shape:
        raise ValueError(f"queries {queries.shape} need as many answers, not {answer.shape}")
    for rows in (supports, queries):
        if not rows.size or rows.min() < 0 or rows.max() >= len(vectors):
            raise ValueError(f"rows must lie in 0..{len(vectors) - 1}, and there must be some")
    n_way, k_shot = supports.shape[1:]
    if similarity is not None:
        tables = [
            similarity.table(vectors[asked], vectors[shown.ravel()]).reshape(-1, n_way, k_shot).max(-1)
            for asked, shown in zip(queries, supports, strict=True)
        ]
        return score_trials(np.stack(tables), answer)
    values = (n_way * k_shot + queries.shape[1]) * vectors.shape[1] + n_way * k_shot * queries.shape[1]
    step = max(1, _FLOATS // values)
    right = []
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        shown = _unit(vectors, supports[part])
        if support == "mean":
            shown = shown.mean(2, keepdims=True)
            # Supports that cancel out are like nothing: similarity 0.
            shown /= np.maximum(np.linalg.norm(shown, axis=-1, keepdims=True), np.float32(IDENTICAL))
        flat = shown.reshape(len(shown), -1, vectors.shape[1])
        cosine = _unit(vectors, queries[part]) @ flat.transpose(0, 2, 1)
        best = cosine.reshape(*cosine.shape[:2], n_way, -1).max(-1)
        right.append(score_trials(best, answer[part]))
    return np.concatenate(right)


def _unit(vectors: npt.NDArray[Any], rows: IntArray) -> npt.NDArray[np.float32]:
    block = np.asarray(vectors[rows], np.float32)
    norm = np.linalg.norm(block, axis=-1, keepdims=True)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise ValueError("vectors must be finite and not zero")
    return np.asarray(block / norm, np.float32)


def _summary(right: BoolArray, groups: npt.NDArray[Any] | None, left_out: tuple[Any, ...]) -> OneShot:
    right_of, asked_of = right.sum(1), np.full(len(right), right.shape[1])
    per_group = {}
    if groups is not None:
        names, group = np.unique(groups, return_inverse=True)
        right_of, asked_of = (np.bincount(group, weights=count) for count in (right_of, asked_of))
        per_group = dict(zip(names.tolist(), (right_of / asked_of).tolist(), strict=True))
    interval = (float("nan"), float("nan"))
    if len(right_of) > 1:

        def accuracy(r: Float64Array, a: Float64Array, axis: int) -> Any:
            return r.sum(axis) / a.sum(axis)

        found = bootstrap(
            (right_of, asked_of), accuracy, paired=True, vectorized=True, n_resamples=_RESAMPLES,
            batch=max(1, (1 << 22) // len(right_of)), method="percentile", rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        interval = (float(found.low), float(found.high))
    units = "episodes" if groups is None else "groups"
    return OneShot(float(right.mean()), interval, units, len(right_of), right.size, per_group, left_out)
