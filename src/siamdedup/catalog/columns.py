"""Which column holds what, and the published layouts that need no settings."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from siamdedup.errors import ConfigError

_CHOICES = {"keep": ("all", "first"), "family_is": ("label", "siblings")}


@dataclass(frozen=True)
class Columns:
    """How the records of a table are read. What is left at None is filled from the layout; what is set wins.

    Attributes:
        layout: a name in ``LAYOUTS``, or "auto": known by its columns, else "feed".
        product_id: column of the product's id.
        images: column of its pictures, or several, whose pictures follow one another.
        family: column of its family; "" where the table has none and each product is its own.
        separator: between the pictures in a cell.
        delimiter: between the cells of a text table; None: found from the header among ``, ; tab |``.
        encoding: of a text table; None: by its byte order mark, else UTF-8, and windows-1252 for rows that are not.
        keep: "all" pictures of a cell, or the "first" where a cell names one picture in several sizes.
        family_is: "label": equal cells are one family; "siblings": the cell lists ids of the family.
        family_pattern: regular expression that finds the sibling ids in the cell (its first group, where it has one).

    Raises:
        ConfigError: a value that none of them can have.
    """

    layout: str = "auto"
    product_id: str | None = None
    images: str | Sequence[str] | None = None
    family: str | None = None
    separator: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    keep: str | None = None
    family_is: str | None = None
    family_pattern: str | None = None

    def __post_init__(self) -> None:
        known = ("auto", *LAYOUTS) if "LAYOUTS" in globals() else (self.layout,)
        if self.layout not in known:
            raise _config_error("layout", self.layout, f"one of {', '.join(known)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (None, *choices):
                raise _config_error(name, getattr(self, name), f"one of {', '.join(choices)}")
        if self.images is not None and not isinstance(self.images, str):
            object.__setattr__(self, "images", tuple(str(name) for name in self.images))
        if self.product_id == "" or self.images in ("", ()):
            raise _config_error("product_id or images", "", "the name of a column")
        if self.separator == "":
            raise _config_error("separator", "", "at least one character")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\x00'):
            raise _config_error("delimiter", self.delimiter, "one character that is no quote and no line end")
        if self.encoding is not None:
            try:
                b"".decode(self.encoding)
                codecs.getincrementaldecoder(self.encoding)
            except (LookupError, UnicodeError, ValueError) as error:
                raise _config_error("encoding", self.encoding, "an encoding that Python knows") from error
        if self.family_pattern is not None:
            try:
                re.compile(self.family_pattern)
            except re.error as error:
                raise _config_error("family_pattern", self.family_pattern, f"a pattern ({error})") from error

    @property
    def image_columns(self) -> tuple[str, ...]:
        """``images`` as a tuple of column names, however it was given."""
        return (self.images,) if isinstance(self.images, str) else tuple(self.images or ())

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        names = (self.product_id, *self.image_columns, self.family)
        return tuple(dict.fromkeys(name for name in names if name))

    def filled(self, header: Iterable[str] = ()) -> Columns:
        """Without None, except ``delimiter`` and ``encoding``: "auto" is decided by the names in ``header``."""
        layout = self.layout_of(header)
        base = LAYOUTS[layout].columns
        ours = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        whole = replace(base, **{**ours, "layout": layout})
        if self.family_pattern is not None and whole.family_is != "siblings":
            raise ConfigError(
                "data.columns.family_pattern finds ids in a list of them",
                remedy="set data.columns.family_is=siblings as well",
            )
        return whole

    def layout_of(self, header: Iterable[str]) -> str:
        """Name of the layout that fills what is None."""
        if self.layout != "auto":
            return self.layout
        names = frozenset(header)
        for name, layout in LAYOUTS.items():
            if layout.telltale and layout.telltale <= names:
                return name
        return "feed"


@dataclass(frozen=True)
class Layout:
    """A published table layout.

    Attributes:
        columns: what it fills in.
        telltale: columns that together give it away; empty: never guessed.
        folder: where its pictures lie, from the table's own folder, with a slash at the end.
        rooted: its names start with a slash that means the pictures' folder.
    """

    columns: Columns
    telltale: frozenset[str] = frozenset()
    folder: str = ""
    rooted: bool = False


def _layout(**values: Any) -> Columns:
    plain = {"separator": ";", "family": "", "keep": "all", "family_is": "label"}
    return Columns(**{**plain, **values})


LAYOUTS: dict[str, Layout] = {
    # A price feed downloaded from Flipkart's affiliate programme (affiliate.flipkart.com, "Feed Download API"): 32
    # columns. imageUrlStr joins the URLs of one picture in several sizes, the largest first. productFamily lists the
    # ids of the variants, with or without the row's own.
    "flipkart": Layout(
        _layout(
            product_id="productId",
            images="imageUrlStr",
            family="productFamily",
            keep="first",
            family_is="siblings",
            family_pattern=r"[^,]+",
        ),
        frozenset({"productId", "imageUrlStr", "productFamily", "codAvailable", "keySpecsStr"}),
    ),
    # Magento 2, System > Data Transfer > Export > Products. A configurable product names its variants as
    # "sku=A,size=XS|sku=B,size=S"; pictures are named from pub/media/catalog/product.
    "magento": Layout(
        _layout(
            product_id="sku",
            images=("base_image", "additional_images"),
            family="configurable_variations",
            separator=",",
            family_is="siblings",
            family_pattern=r"(?:^|[|,])\s*sku=([^,|]+)",
        ),
        frozenset({"sku", "base_image", "additional_images", "configurable_variations"}),
        rooted=True,
    ),
    # Shopee Price Match Guarantee (Kaggle, 2021), train.csv: postings of one label_group show one product.
    "shopee": Layout(
        _layout(product_id="posting_id", images="image", family="label_group"),
        frozenset({"posting_id", "image", "label_group"}),
        folder="train_images/",
    ),
    # Stanford Online Products (Song et al., CVPR 2016), Ebay_train.txt and Ebay_test.txt: a class is one product.
    "sop": Layout(
        _layout(product_id="image_id", images="path", family="class_id", separator="\x00", delimiter=" "),
        frozenset({"image_id", "class_id", "super_class_id", "path"}),
    ),
    # A shop's product feed; last, because "auto" ends here.
    "feed": Layout(_layout(product_id="productId", images="imageUrlStr", family="productFamily")),
}


def as_columns(columns: Columns | Mapping[str, Any] | None) -> Columns:
    """Settings as ``Columns``.

    Raises:
        ConfigError: an unknown field, or a value that it cannot have.
    """
    if columns is None or isinstance(columns, Columns):
        return columns or Columns()
    known = [f.name for f in fields(Columns)]
    unknown = sorted(str(name) for name in columns if name not in known)
    if unknown:
        raise ConfigError(
            f"data.columns has no field {', '.join(map(repr, unknown))}",
            remedy=f"it has {', '.join(known)}",
        )
    values = {str(name): value for name, value in columns.items()}
    if values.get("layout") is None:
        values.pop("layout", None)
    for name, value in values.items():
        single = value is None or isinstance(value, str)
        if not single and (name != "images" or not isinstance(value, Sequence)):
            raise _config_error(name, value, "text")
    return Columns(**values)


def _config_error(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"data.columns.{name}={value!r} cannot be", remedy=f"give {wanted}")
