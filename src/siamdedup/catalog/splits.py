"""Family-disjoint train / validation / test splits, asserted and hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.catalog.families import FamilyTies
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import BoolArray, Catalog, IntArray

Names = npt.NDArray[np.object_]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """Product rows of each split and the hash that names this division."""

    train: IntArray
    val: IntArray
    test: IntArray
    sha256: str

    def __getitem__(self, name: str) -> IntArray:
        if name not in SPLITS:
            raise KeyError(f"{name!r}: one of {SPLITS}")
        rows: IntArray = getattr(self, name)
        return rows


def split_families(
    catalog: Catalog,
    ties: FamilyTies,
    fractions: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    whole: str | None = None,
    given: Mapping[str, str] | None = None,
) -> Splits:
    """Divide a catalogue so that no family, and no tied group of families, lies in two splits.

    Groups are ordered by SHA-256 of (seed, first family's name), which does not depend on the rows' order, and
    handed out until each split holds its share of the products.

    Args:
        whole: a regular expression; families whose names begin with the same match lie on one side (the
            alphabet of a character, the super class of a product).
        given: split -> regular expression: families whose names begin with a match lie there, as published;
            a family tied to one of them goes with it. The others are divided among the other splits.

    Raises:
        ConfigError: fractions do not add up to 1, or an expression does not fit the families.
        CatalogError: too few groups to give each split one.
    """
    fractions = dict(fractions or {"train": 0.6, "val": 0.2, "test": 0.2})
    if (
        set(fractions) != set(SPLITS)
        or abs(sum(fractions.values()) - 1) > 1e-6
        or min(fractions.values()) < 0
    ):
        raise ConfigError(f"split fractions must be train, val, test adding up to 1; got {fractions}")
    names = np.array(catalog.families.to_pylist(), dtype=object)
    group = _groups(ties.component, catalog.labels, names, whole)
    published = _published(group, names, given or {})
    if published:
        return _divide_the_rest(catalog, ties, group, names, fractions, seed, published)
    return _checked(catalog, ties, _hand_out(group, names, fractions, seed))


def _groups(component: IntArray, labels: IntArray, names: Names, whole: str | None) -> IntArray:
    """int64 (n_products,): numbers 0.. of what must lie on one side."""
    group = component[labels]
    if whole is None:
        return np.unique(group, return_inverse=True)[1].astype(np.int64)
    fits = _pattern("keep_whole", whole).match
    found = [fits(name) for name in names.tolist()]
    if None in found:
        raise ConfigError(
            f"data.keep_whole={whole!r} does not match the family {names[found.index(None)]!r}",
            remedy="it is a regular expression that must match the beginning of every family's name",
        )
    kept = np.unique([match.group() for match in found if match], return_inverse=True)[1]
    n = int(group.max()) + 1
    graph = coo_array((np.ones(len(group)), (group, n + kept)), shape=(n + len(kept),) * 2)
    return np.unique(connected_components(graph, directed=False)[1][group], return_inverse=True)[1]


def _pattern(key: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"data.{key}={text!r} is no regular expression: {error}",
            remedy="put a backslash before characters that stand for themselves, as in \\( or \\+",
        ) from None


def _published(group: IntArray, names: Names, given: Mapping[str, str]) -> dict[str, BoolArray]:
    """split -> bool (n_products,): the products whose groups the data set itself puts there."""
    found: dict[str, BoolArray] = {}
    taken = np.zeros(len(group), bool)
    for split, pattern in given.items():
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}", remedy=f"one of {', '.join(SPLITS)}")
        fits = _pattern(f"published_splits.{split}", pattern).match
        mine = np.array([fits(name) is not None for name in names.tolist()])
        if not mine.any():
            raise ConfigError(
                f"data.published_splits.{split}={pattern!r} matches no family (one of them: {names[0]!r})",
                remedy="it is a regular expression that must match the beginning of families' names",
            )
        mine = np.isin(group, group[mine])
        if (mine & taken).any():
            raise ConfigError(
                f"the family {names[np.flatnonzero(mine & taken)[0]]!r} would lie in two published splits",
                remedy="families that share a picture lie on one side; check data.published_splits",
            )
        found[split], taken = mine, taken | mine
    return found


def _divide_the_rest(
    catalog: Catalog,
    ties: FamilyTies,
    group: IntArray,
    names: Names,
    fractions: Mapping[str, float],
    seed: int,
    published: Mapping[str, BoolArray],
) -> Splits:
    rest = ~np.logical_or.reduce(list(published.values()))
    left = {name: 0.0 if name in published else share for name, share in fractions.items()}
    rows = {name: np.flatnonzero(mask).astype(np.int64) for name, mask in published.items()}
    if rest.any():
        total = sum(left.values())
        if not total:
            raise ConfigError(
                "some families are in no published split, and no fraction is left for them",
                remedy="in data.fractions, give a share to a split that data.published_splits does not name"
                if len(published) < len(SPLITS)
                else f"widen data.published_splits (one of the families: {names[rest][0]!r})",
            )
        shares = {name: share / total for name, share in left.items()}
        where = np.flatnonzero(rest)
        own = np.unique(group[rest], return_inverse=True)[1].astype(np.int64)
        for name, mine in _hand_out(own, names[rest], shares, seed).items():
            if name not in rows:
                rows[name] = where[mine]
    rows = {name: rows.get(name, np.empty(0, np.int64)) for name in SPLITS}
    return _checked(catalog, ties, rows)


def _hand_out(
    group: IntArray, names: Names, fractions: Mapping[str, float], seed: int
) -> dict[str, IntArray]:
    """split -> rows, in which each split with a share has at least one group."""
    n_groups = int(group.max()) + 1
    first = np.full(n_groups, "", object)
    for label, name in zip(group.tolist(), names.tolist(), strict=True):
        if not first[label] or name < first[label]:
            first[label] = name
    order = sorted(range(n_groups), key=lambda g: hashlib.sha256(f"{seed}\x00{first[g]}".encode()).digest())
    wanted = [name for name in SPLITS if fractions[name] > 0]
    if n_groups < len(wanted):
        raise CatalogError(
            f"{n_groups} independent famil{'y' if n_groups == 1 else 'ies'} cannot be divided into {len(wanted)} splits",
            remedy="check that productFamily really groups products; tied families count as one",
        )
    sizes = np.bincount(group, minlength=n_groups)[order]
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    bounds = np.cumsum([fractions[name] for name in wanted])
    cuts = np.searchsorted(middle, bounds[:-1])
    # However uneven the groups are, every wanted split gets at least one.
    for k in range(len(cuts)):
        least, most = (cuts[k - 1] if k else 0) + 1, n_groups - (len(cuts) - k)
        cuts[k] = min(max(cuts[k], least), most)
    side = np.searchsorted(cuts, np.arange(n_groups), side="right")
    side_of_group = np.empty(n_groups, np.int64)
    side_of_group[order] = side
    rows = {name: np.empty(0, np.int64) for name in SPLITS}
    for k, name in enumerate(wanted):
        rows[name] = np.flatnonzero(side_of_group[group] == k).astype(np.int64)
    return rows


def _checked(catalog: Catalog, ties: FamilyTies, rows: Mapping[str, IntArray]) -> Splits:
    _assert_disjoint(catalog, ties, rows)
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(f"{name}\x00".encode())
        for product in sorted(catalog.product_ids.take(rows[name]).to_pylist()):
            digest.update(f"{product}\x00".encode())
    return Splits(rows["train"], rows["val"], rows["test"], digest.hexdigest())


def _assert_disjoint(catalog: Catalog, ties: FamilyTies, rows: Mapping[str, IntArray]) -> None:
    """No family or tied group in two splits, and every product in exactly one."""
    seen: dict[int, str] = {}
    total = 0
    for name, products in rows.items():
        total += len(products)
        for component in np.unique(ties.component[catalog.labels[products]]).tolist():
            if seen.setdefault(component, name) != name:
                raise AssertionError(f"family group {component} is both in {seen[component]} and in {name}")
    if total != catalog.n_products:
        raise AssertionError(f"{total} products in the splits, {catalog.n_products} in the catalogue")
