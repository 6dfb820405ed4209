"""Data sets of things and persons that test an embedding beyond products: UKBench, LFW, CUB-200-2011.

Each picture is a product of its own, called by its path, in the family of what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.source import Source
from siamdedup.catalog.adapters.writing import Product, adapted

_IN_A_ROW = 4  # pictures of one UKBench object
_CUB_CLASSES, _CUB_TRAIN = 200, 100


def read_ukbench(source: Source, cache: Path) -> Adapted:
    """UKBench (Nistér and Stewénius, CVPR 2006): ``full/ukbench00000.jpg`` ... ``ukbench10199.jpg``.

    Four in a row show one object: the family is the picture's number // 4. No split is published.

    Raises:
        CatalogError: there is no such folder or picture.
    """
    source = source.within("ukbench")
    root = source.below("full")
    names = source.names(root, r"ukbench\d{5}\.jpg")
    if not names:
        raise source.missing("ukbenchNNNNN.jpg", root)
    products = (Product(name, name, str(int(name[7:12]) // _IN_A_ROW)) for name in names)
    return adapted(source, cache, products, root=root, listing=names)


def read_lfw(source: Source, cache: Path) -> Adapted:
    """Labeled Faces in the Wild (Huang et al. 2007): ``lfw/NAME/NAME_0001.jpg``; the aligned releases alike.

    The family is the person's NAME; a product is called as ``catalog.pairs_file`` calls the picture, so that
    ``pairs.txt``, which holds the benchmark's pairs and folds, names the same pictures.

    Raises:
        CatalogError: there is no such folder or picture.
    """
    root = source.within("lfw", "lfw_funneled", "lfw-deepfunneled").folder
    names = [
        f"{person}/{name}"
        for person in source.folders(root, r"[^.].*")
        for name in source.names(root / person, r".+_\d{4}\.jpg")
        if name[:-9] == person
    ]
    if not names:
        raise source.missing("NAME/NAME_0001.jpg", root)
    products = (Product(name, name, name.split("/")[0]) for name in names)
    return adapted(source, cache, products, root=root, listing=names)


def read_cub(source: Source, cache: Path) -> Adapted:
    """CUB-200-2011 (Wah et al. 2011): ``images.txt``, ``image_class_labels.txt`` (image id, value), ``images/``.

    The split of metric learning, not that of ``train_test_split.txt``: families are ``train/FOLDER`` of classes
    1-100 and ``test/FOLDER`` of 101-200, where FOLDER starts with the class id, as in ``001.Black_footed_Albatross``.

    Raises:
        CatalogError: a list is missing or malformed, or they do not fit together.
    """
    source = source.within("CUB_200_2011")
    path, labels = source.file("images.txt"), source.file("image_class_labels.txt")
    root = source.below("images")

    def pairs(file: Path) -> Iterator[tuple[int, str, str]]:
        for number, cells in source.lines(file):
            if len(cells) != 2 or not cells[0].isdecimal():
                raise source.malformed(file, number, "it is not an image id and a value")
            yield number, cells[0], cells[1]

    def products() -> Iterator[Product]:
        class_of: dict[str, int] = {}
        for number, image, label in pairs(labels):
            if not label.isdecimal() or not 1 <= int(label) <= _CUB_CLASSES:
                raise source.malformed(labels, number, f"class {label!r} is not in 1..{_CUB_CLASSES}")
            class_of[image] = int(label)
        for number, image, name in pairs(path):
            if image not in class_of:
                raise source.malformed(path, number, f"image {image} has no class in {labels.name}")
            split = "train" if class_of[image] <= _CUB_TRAIN else "test"
            folder = name.split("/")[0]
            if not folder.startswith(f"{class_of[image]:03d}."):
                raise source.malformed(
                    path, number, f"{name} is not in the folder of class {class_of[image]}"
                )
            yield Product(name, name, f"{split}/{folder}")

    return adapted(source, cache, products(), root=root, indexes=[path, labels])
