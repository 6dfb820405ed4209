"""Public data sets by name: what each is, where to get it, and how its published layout becomes a table.

An adapter and ``columns.layout`` (``catalog.columns``) are two ways in: a layout names the columns of one table that
the reader then takes as it is; an adapter takes the whole unpacked data set, joins its lists, folders and splits, and
writes a table in the plain columns. What has splits, several lists or none at all needs an adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from siamdedup.catalog.adapters.copies import read_copydays, read_disc
from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.objects import read_cub, read_lfw, read_ukbench
from siamdedup.catalog.adapters.omniglot import GET, read_omniglot
from siamdedup.catalog.adapters.products import read_inshop, read_products10k, read_shopee, read_sop
from siamdedup.catalog.adapters.source import Source
from siamdedup.errors import CatalogError, ConfigError


@dataclass(frozen=True)
class Adapter:
    """A data set.

    Attributes:
        what: one line.
        expects: what its folder holds, one line.
        get: the data set's own page.
        read: makes the table.
    """

    what: str
    expects: str
    get: str
    read: Callable[[Source, Path], Adapted]


ADAPTERS: dict[str, Adapter] = {
    "sop": Adapter(
        "Stanford Online Products: 120,053 pictures of 22,634 products on eBay",
        "Ebay_train.txt, Ebay_test.txt and a folder per super class",
        "https://cvgl.stanford.edu/projects/lifted_struct/",
        read_sop,
    ),
    "inshop": Adapter(
        "DeepFashion In-Shop: 52,712 pictures of 7,982 pieces of clothing",
        "Eval/list_eval_partition.txt and Img/img/",
        "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        read_inshop,
    ),
    "products10k": Adapter(
        "Products-10K: some 197,000 pictures of 9,691 products on JD.com, split by picture",
        "train.csv, test_kaggletest.csv, train/ and test/",
        "https://products-10k.github.io/",
        read_products10k,
    ),
    "shopee": Adapter(
        "Shopee Price Match Guarantee: 34,250 postings of 11,014 products",
        "train.csv and train_images/",
        "https://www.kaggle.com/competitions/shopee-product-matching/data",
        read_shopee,
    ),
    "ukbench": Adapter(
        "UKBench: 10,200 pictures, four of each of 2,550 objects",
        "full/ukbench00000.jpg ...",
        "https://archive.org/details/ukbench",
        read_ukbench,
    ),
    "copydays": Adapter(
        "Copydays: 157 photographs and their copies, cropped, compressed or strongly attacked",
        "original/ and strong/, crops/NN/ or jpegqual/NN/",
        "https://lear.inrialpes.fr/~jegou/data.php#copydays",
        read_copydays,
    ),
    "disc": Adapter(
        "DISC2021: a million references and 50,000 development queries, 10,000 of them copies",
        "references/, dev_queries/ and dev_queries_groundtruth.csv",
        "https://ai.meta.com/datasets/disc21-dataset/",
        read_disc,
    ),
    "lfw": Adapter(
        "Labeled Faces in the Wild: 13,233 pictures of 5,749 persons",
        "lfw/NAME/NAME_0001.jpg ...",
        "https://vis-www.cs.umass.edu/lfw/",
        read_lfw,
    ),
    "cub": Adapter(
        "CUB-200-2011: 11,788 pictures of 200 kinds of birds, 100 to learn from and 100 to be asked about",
        "images.txt, image_class_labels.txt and images/",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        read_cub,
    ),
    "omniglot": Adapter(
        "Omniglot: 1,623 hand-written characters of 50 alphabets, 20 drawings each",
        "images_background, images_evaluation and all_runs, as folders or .zip",
        GET,
        read_omniglot,
    ),
}


def adapt(name: str, source: str | Path, cache: Path) -> Adapted:
    """The table of a public data set that lies unpacked in the folder ``source``.

    The table is kept below ``cache/adapters`` and used again until a list, or the names in a folder that is listed,
    change. The folder itself is only read. A picture that a list names and that is not there is left to whoever
    opens the pictures.

    Raises:
        ConfigError: no adapter has that name.
        CatalogError: the folder or a piece of it is missing, or one of its lists is damaged.
    """
    if name not in ADAPTERS:
        raise ConfigError(f"there is no data set {name!r}", remedy=f"one of {', '.join(ADAPTERS)}")
    adapter, folder = ADAPTERS[name], Path(source).expanduser().absolute()
    if not folder.is_dir():
        raise CatalogError(
            "it is not a folder" if folder.exists() else "there is no such folder",
            where=str(source),
            remedy=f"name the folder of the unpacked data set ({adapter.expects}); get it at {adapter.get}",
        )
    return adapter.read(Source(name, folder, adapter.get), Path(cache).expanduser())
