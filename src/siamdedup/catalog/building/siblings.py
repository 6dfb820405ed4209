"""Families from lists of siblings: closed transitively, and what contradicts itself is counted."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.catalog.ledger import Ledger
from siamdedup.types import BoolArray

_BATCH = 200_000
_EXAMPLES = 10


class Components:
    """Connected components of a graph whose edges arrive in blocks (union-find, each block at once).

    ``parent`` points to a smaller or equal node, so a component's root is its smallest node.
    """

    def __init__(self, parent: npt.NDArray[np.integer]) -> None:
        self.parent = parent

    def find(self, nodes: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """The root of each node; the nodes then point to it directly."""
        roots = self.parent[nodes]
        while True:
            above = self.parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self.parent[nodes] = roots
        return roots

    def join(self, left: npt.NDArray[np.integer], right: npt.NDArray[np.integer]) -> None:
        """Tie ``left[k]`` to ``right[k]``."""
        left, right = self.find(left), self.find(right)
        apart = left != right
        if not apart.any():
            return
        roots, position = np.unique(np.concatenate([left[apart], right[apart]]), return_inverse=True)
        half = int(apart.sum())
        edges = coo_array(
            (np.ones(half, np.int8), (position[:half], position[half:])), (len(roots), len(roots))
        )
        _, component = connected_components(edges, directed=False)
        smallest = np.full(component.max() + 1, len(self.parent), self.parent.dtype)
        np.minimum.at(smallest, component, roots)
        self.parent[roots] = smallest[component]

    def roots(self) -> npt.NDArray[np.integer]:
        """(n,): the smallest node of each node's component."""
        for start in range(0, len(self.parent), _BATCH):
            self.find(np.arange(start, min(start + _BATCH, len(self.parent))))
        return self.parent


@dataclass(frozen=True)
class SiblingFacts:
    """What the lists say of themselves.

    Attributes:
        disagreeing: families in which some product's list does not name exactly the others (unknown ids aside); a
            product without a list says nothing.
        disagreeing_ids: first products of some of them.
        one_sided: pairs of products, both with lists, of which only one names the other.
        unknown: how often a list names an id that no used product has.
        unknown_examples: (product id, unknown id).
    """

    disagreeing: int = 0
    disagreeing_ids: tuple[str, ...] = ()
    one_sided: int = 0
    unknown: int = 0
    unknown_examples: tuple[tuple[str, str], ...] = ()


def close_families(
    con: duckdb.DuckDBPyConnection,
    parent: npt.NDArray[np.integer],
    kept: BoolArray,
    listed: BoolArray,
    sources: tuple[str, ...],
    ledger: Ledger,
) -> tuple[npt.NDArray[np.integer], SiblingFacts]:
    """Tie every used row to the used rows that its list names.

    Only ids of used products are nodes: two products that name the same absent id are not tied by it, since such
    an id is as often a placeholder as a product.

    Args:
        con: holds ``rows`` (n, source, record, id, siblings) and ``used``, its rows that became products.
        parent: (n_rows,) forest to start from, each pointing to a smaller or equal row; changed.
        kept, listed: bool (n_rows,), the rows that became products; those with a list that is not empty.
        ledger: receives one entry for each row whose list names unknown ids; the row itself is used.

    Returns:
        (n_rows,) the first row of each row's family, and the facts.
    """
    con.execute(
        "CREATE TABLE mentions AS SELECT m.n AS a, k.n AS b, CASE WHEN k.n IS NULL THEN m.s END AS s FROM "
        "(SELECT n, id, unnest(list_distinct(siblings)) AS s FROM used WHERE siblings IS NOT NULL) m "
        "LEFT JOIN used k ON k.id = m.s WHERE m.s <> m.id"
    )
    components = Components(parent)
    named = np.zeros(len(parent), np.int32)
    for batch in con.sql("SELECT a, b FROM mentions WHERE b IS NOT NULL").to_arrow_reader(_BATCH):
        a, b = (batch.column(k).to_numpy() for k in range(2))
        components.join(a, b)
        rows, counts = np.unique(a, return_counts=True)
        named[rows] += counts.astype(np.int32)
    root = components.roots()
    size = np.bincount(root[kept], minlength=len(root))
    wrong = np.zeros(len(root), bool)
    wrong[root[kept & listed & (named != size[root] - 1)]] = True
    first = np.flatnonzero(wrong)
    one_sided = 0
    if len(first):
        one_sided = int(
            con.sql(
                "SELECT count(*) FROM mentions x JOIN used u ON u.n = x.b AND len(u.siblings) > 0 "
                "ANTI JOIN mentions y ON x.a = y.b AND x.b = y.a"
            ).fetchall()[0][0]
        )
    unknown, examples = _report_unknown(con, sources, ledger)
    facts = SiblingFacts(
        len(first), _ids_of(con, root, kept, first[:_EXAMPLES]), one_sided, unknown, examples
    )
    return root, facts


def _ids_of(
    con: duckdb.DuckDBPyConnection,
    root: npt.NDArray[np.integer],
    kept: BoolArray,
    families: npt.NDArray[np.integer],
) -> tuple[str, ...]:
    found = []
    for family in families.tolist():
        row = int(np.flatnonzero(kept & (root == family))[0])
        found.append(con.execute("SELECT id FROM used WHERE n = ?", [row]).fetchall()[0][0])
    return tuple(found)


def _report_unknown(
    con: duckdb.DuckDBPyConnection, sources: tuple[str, ...], ledger: Ledger
) -> tuple[int, tuple[tuple[str, str], ...]]:
    total = 0
    examples: list[tuple[str, str]] = []
    query = (
        "SELECT r.source, r.record, r.id, u.s, u.c FROM (SELECT a, min(s) AS s, count(*) AS c FROM mentions "
        "WHERE b IS NULL GROUP BY a) u JOIN used r ON r.n = u.a ORDER BY r.n"
    )
    for batch in con.sql(query).to_arrow_reader(_BATCH):
        for source, record, name, sibling, count in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            more = f", nor {count - 1} more that it names" if count > 1 else ""
            ledger.add(
                sources[source], record, name, f"unknown sibling: no product has the id {sibling!r}{more}"
            )
            total += count
            if len(examples) < _EXAMPLES:
                examples.append((name, sibling))
    return total, tuple(examples)
