"""Family-disjoint train / validation / test splits, asserted and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from siamdedup.catalog.families import FamilyTies
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import Catalog, IntArray

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
    catalog: Catalog, ties: FamilyTies, fractions: Mapping[str, float] | None = None, *, seed: int = 0
) -> Splits:
    """Divide a catalogue so that no family, and no tied group of families, lies in two splits.

    Groups are ordered by SHA-256 of (seed, first family's name), which does not depend on the rows' order, and
    handed out until each split holds its share of the products.

    Raises:
        ConfigError: fractions do not add up to 1.
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
    group = ties.component[catalog.labels]
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
