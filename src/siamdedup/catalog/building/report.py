"""What reading a table found, for the doctor and the closing table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TableReport:
    """Counts of one reading. Nothing here was guessed: each odd thing is counted and treated as documented.

    Attributes:
        rows: records that the readers gave; malformed ones are in the ledger only.
        products, families: of the catalogue.
        without_family: products that name no family; each is a family of its own, or of those that list it.
        repeated_identical, repeated_other_family, repeated_other_pictures: rows whose id came before, by how they
            differ from the first (family before pictures). The first row was kept.
        families_disagreeing: families made of lists of siblings in which some product's list does not name exactly
            the others, unknown ids aside; a product without a list says nothing.
        disagreeing: ids of the first products of some of them.
        one_sided_siblings: pairs of products, both with lists, of which only one names the other.
        unknown_siblings: how often a list names an id that no product has; ``unknown_examples``: (id, named id).
        pictures_local, pictures_remote: distinct pictures of the catalogue by where they are: files, URLs.
        pictures_outside: distinct names that leave the root, refused or (where allowed) used.
        pictures_unsupported: distinct addresses that nothing here fetches, refused.
        products_per_source: in the order of ``Catalog.sources``.
        ids_control, ids_blanks, ids_long: rows whose id holds control characters, had blanks around it (they were
            taken off), or is longer than 200 characters; ``suspicious_ids``: some of them.
        looks_like_siblings: the family column was read as labels, but its cells list ids of other products.
    """

    rows: int
    products: int
    families: int
    without_family: int
    repeated_identical: int
    repeated_other_family: int
    repeated_other_pictures: int
    families_disagreeing: int
    disagreeing: tuple[str, ...]
    one_sided_siblings: int
    unknown_siblings: int
    unknown_examples: tuple[tuple[str, str], ...]
    pictures_local: int
    pictures_remote: int
    pictures_outside: int
    pictures_unsupported: int
    products_per_source: tuple[int, ...]
    ids_control: int
    ids_blanks: int
    ids_long: int
    suspicious_ids: tuple[str, ...]
    looks_like_siblings: bool

    def notes(self) -> tuple[str, ...]:
        """What a person should look at before trusting the families, each with its remedy."""
        found = []
        if self.looks_like_siblings:
            found.append(
                "the family column looks like lists of sibling ids, but was read as labels: set columns.layout=flipkart"
            )
        if self.repeated_other_family:
            found.append(
                f"{self.repeated_other_family:,} rows repeat an id with another family: "
                "correct the export, the first row was kept"
            )
        if self.families_disagreeing:
            found.append(
                f"{self.families_disagreeing:,} families hold lists of siblings that disagree "
                f"(of {', '.join(map(repr, self.disagreeing[:3]))}): all that are tied were made one family"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TableReport:
        kept = {f.name: _frozen(values[f.name]) for f in fields(cls)}
        return cls(**kept)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
