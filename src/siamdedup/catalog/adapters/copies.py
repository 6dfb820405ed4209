"""Data sets of copies and their originals: Copydays and DISC2021.

Each picture is a product and a family of its own; that one is a copy of another is the truth, not a family, since a
family is what a shop already knows to be one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.source import Source
from siamdedup.catalog.adapters.writing import Copy, Product, adapted

_BLOCK = r"\d{4}"  # Copydays: the digits that an original and its copies share


def read_copydays(source: Source, cache: Path) -> Adapted:
    """INRIA Copydays (Douze et al., CIVR 2009).

    ``original/200000.jpg`` ... (157, which end with 00), and its copies by strong attacks ``strong/200001.jpg`` (229),
    by cropping ``crops/10/200000.jpg`` (10 to 80 %) and by compression ``jpegqual/3/200000.jpg`` (quality 3 to 75).
    The first four digits name the original. Folders called after the archives (``copydays_original``) will do, and so
    will any of the kinds of copies. The truth's level is the attack: ``strong``, ``crops/10``, ``jpegqual/3``.

    Raises:
        CatalogError: there are no originals or no copies, or a copy has no original.
    """
    source = source.within("copydays")
    originals = source.below("original", "copydays_original")
    blocks = {name[:4]: f"{originals.name}/{name}" for name in source.names(originals, _BLOCK + r"00\.jpg")}
    if not blocks:
        raise source.missing("NNNN00.jpg", originals)
    copies = [
        (f"{folder}/{name}", attack)
        for folder, attack in _attacks(source)
        for name in source.names(source.folder / folder, _BLOCK + r"\d{2}\.jpg")
    ]
    if not copies:
        raise source.missing("NNNNNN.jpg in strong/, crops/NN/ or jpegqual/NN/")
    truth = []
    for name, attack in copies:
        block = name.rsplit("/", 1)[1][:4]
        if block not in blocks:
            raise source.missing(f"{block}00.jpg, of which {name} is a copy,", originals)
        truth.append(Copy(name, blocks[block], attack))
    names = [*blocks.values(), *(name for name, _ in copies)]
    products = (Product(name, name) for name in names)
    return adapted(source, cache, products, root=source.folder, listing=names, truth=truth, levels=True)


def _attacks(source: Source) -> Iterator[tuple[str, str]]:
    """Folders of copies and the names of their attacks."""
    strong = next((n for n in ("strong", "copydays_strong") if (source.folder / n).is_dir()), None)
    if strong:
        yield strong, "strong"
    graded = {"crops": ("crops", "copydays_crop"), "jpegqual": ("jpegqual", "jpeg", "copydays_jpeg")}
    for attack, spellings in graded.items():
        kind = next((n for n in spellings if (source.folder / n).is_dir()), None)
        if kind:
            degrees = sorted(source.folders(source.folder / kind, r"\d+"), key=int)
            yield from ((f"{kind}/{degree}", f"{attack}/{degree}") for degree in degrees)


def read_disc(source: Source, cache: Path) -> Adapted:
    """DISC2021, development part (Douze et al. 2021, arXiv:2106.09672).

    ``references/R000000.jpg`` ... (a million; or the archives' folders ``refs_50k_*``), ``dev_queries/Q00000.jpg`` ...
    (50,000; or ``dev_queries_50k_0``) and ``dev_queries_groundtruth.csv`` (or the challenge's
    ``public_ground_truth.csv``): query id, reference id or nothing, with a header or without. A picture is called by
    its id. One that the truth names and no folder holds is listed nevertheless and ends in the ledger as missing, so
    that whoever has only a part of the references sees it.

    Raises:
        CatalogError: a piece is missing or the truth is malformed.
    """
    truth_file = source.file("dev_queries_groundtruth.csv", "public_ground_truth.csv")
    parts = source.folders(source.folder, r"references") or source.folders(source.folder, r"refs_50k_\d+")
    if not parts:
        raise source.missing("references/ or refs_50k_*/")
    queries = source.below("dev_queries", "dev_queries_50k_0").name
    home = {"R": parts[0], "Q": queries}
    names = [
        f"{folder}/{name}"
        for folder, pattern in [*((p, r"R\d{6}\.jpg") for p in parts), (queries, r"Q\d{5}\.jpg")]
        for name in source.names(source.folder / folder, pattern)
    ]
    for folder in (parts[0], queries):
        if not any(name.startswith(f"{folder}/") for name in names):
            raise source.missing(
                "R000000.jpg" if folder == parts[0] else "Q00000.jpg", source.folder / folder
            )

    def products() -> Iterator[Product]:
        absent = {picture: None for copy in _matches(source, truth_file) for picture in copy[:2]}
        for name in names:
            picture = name[name.rindex("/") + 1 : -4]
            absent.pop(picture, None)
            yield Product(picture, name)
        yield from (Product(picture, f"{home[picture[0]]}/{picture}.jpg") for picture in absent)

    return adapted(
        source,
        cache,
        products(),
        root=source.folder,
        indexes=[truth_file],
        listing=names,
        truth=_matches(source, truth_file),
    )


def _matches(source: Source, path: Path) -> Iterator[Copy]:
    """The rows that name a reference."""
    query, reference = re.compile(r"Q\d{5}").fullmatch, re.compile(r"R\d{6}").fullmatch
    for number, cells in source.lines(path, ","):
        if number == 1 and cells[:2] == ["query_id", "reference_id"]:
            continue
        if len(cells) != 2 or not query(cells[0]) or not (cells[1] == "" or reference(cells[1])):
            raise source.malformed(path, number, f"{','.join(cells)!r} is not Q00000,R000000 or Q00000,")
        if cells[1]:
            yield Copy(cells[0], cells[1])
