"""Data sets of products on sale: Stanford Online Products, In-Shop, Products-10K, Shopee.

Each picture is a product of its own, called by its path (Shopee: by its posting), in the family of its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.source import Source
from siamdedup.catalog.adapters.writing import Product, adapted


def read_sop(source: Source, cache: Path) -> Adapted:
    """Stanford Online Products (Song et al., CVPR 2016).

    ``Ebay_train.txt`` and ``Ebay_test.txt`` (image_id class_id super_class_id path, divided by spaces) list 59,551
    pictures of 11,318 classes and 60,502 of 11,316 others. Families: ``train/CLASS``, ``test/CLASS``.

    ``columns.layout=sop`` reads either file as it is, but tells no splits; both files given together would be one
    catalogue without the protocol's split. This table is for that split.

    Raises:
        CatalogError: a list is missing or malformed.
    """
    source = source.within("Stanford_Online_Products")
    lists = {split: source.file(f"Ebay_{split}.txt") for split in ("train", "test")}

    def products() -> Iterator[Product]:
        for split, path in lists.items():
            for _, (label, name) in source.table(path, source.lines(path), ("class_id", "path")):
                yield Product(name, name, f"{split}/{label}")

    return adapted(source, cache, products(), root=source.folder, indexes=list(lists.values()))


def read_inshop(source: Source, cache: Path) -> Adapted:
    """DeepFashion, In-shop Clothes Retrieval (Liu et al., CVPR 2016).

    ``Eval/list_eval_partition.txt`` (or beside the pictures): the number of rows, the header ``image_name item_id
    evaluation_status``, then 52,712 rows; pictures in ``Img/`` (or here), where names start with ``img/``. Families:
    ``train/ITEM`` and, of query and gallery alike, ``test/ITEM``.

    Raises:
        CatalogError: the list is missing, malformed or shorter than it says; there are no pictures.
    """
    source = source.within("In-shop Clothes Retrieval Benchmark")
    path = source.file("Eval/list_eval_partition.txt", "list_eval_partition.txt")
    pictures = source.below("Img/img", "img").parent
    splits = {"train": "train", "query": "test", "gallery": "test"}

    def products() -> Iterator[Product]:
        lines = source.lines(path)
        _, first = next(lines, (1, []))
        if len(first) != 1 or not first[0].isdecimal():
            raise source.malformed(path, 1, "it is not the number of rows")
        count = 0
        columns = ("image_name", "item_id", "evaluation_status")
        for number, (name, item, status) in source.table(path, lines, columns):
            if status not in splits:
                raise source.malformed(
                    path, number, f"evaluation_status is {status!r}, not one of {', '.join(splits)}"
                )
            count += 1
            yield Product(name, name, f"{splits[status]}/{item}")
        if count != int(first[0]):
            raise source.malformed(path, 1, f"it promises {first[0]} rows, {count} follow")

    return adapted(source, cache, products(), root=pictures, indexes=[path])


def read_products10k(source: Source, cache: Path) -> Adapted:
    """Products-10K (Bai et al. 2020, arXiv:2008.10545).

    ``train.csv`` and ``test_kaggletest.csv`` with name and class (and, differing by release, group and Usage), pictures
    in ``train/`` and ``test/``. Families: ``train/CLASS``, ``test/CLASS``.

    The published split is by picture: a class that has pictures in both is two families here, although it is one
    product. Learn from one split and measure on the other; do not mix them in one set of families.

    Raises:
        CatalogError: a list is missing or malformed.
    """
    lists = {"train": source.file("train.csv"), "test": source.file("test_kaggletest.csv")}

    def products() -> Iterator[Product]:
        for split, path in lists.items():
            for _, (name, label) in source.table(path, source.lines(path, ","), ("name", "class")):
                yield Product(f"{split}/{name}", f"{split}/{name}", f"{split}/{label}")

    return adapted(source, cache, products(), root=source.folder, indexes=list(lists.values()))


def read_shopee(source: Source, cache: Path) -> Adapted:
    """Shopee Price Match Guarantee (Kaggle, 2021).

    ``train.csv`` with posting_id, image and label_group (besides image_phash and title), pictures in ``train_images/``.
    Its test set is not published, so there is no split: families are label groups.

    ``columns.layout=shopee`` gives the same products and families from ``train.csv`` itself; here the list is checked
    line by line, and a damaged one is refused instead of leaving rows to the ledger.

    Raises:
        CatalogError: the list is missing or malformed.
    """
    path = source.file("train.csv")

    def products() -> Iterator[Product]:
        lines = source.table(path, source.lines(path, ","), ("posting_id", "image", "label_group"))
        for _, (posting, name, label) in lines:
            yield Product(posting, f"train_images/{name}", label)

    return adapted(source, cache, products(), root=source.folder, indexes=[path])
