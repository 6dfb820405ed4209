"""What the embedded catalogue holds: families, colour variants, relisted products, look-alikes, their shots."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from siamdedup.catalog.rendered.design import Design, shifted
from siamdedup.catalog.rendered.products import KINDS, build
from siamdedup.catalog.rendered.scene import Shot
from siamdedup.catalog.rendered.shots import LEVELS, Rng, relisted_shot, shop_shot
from siamdedup.catalog.rendered.textures import Rgb

# Kinds whose print is too small, or whose measures vary too little, to tell two products apart by it alone.
FINE_PRINT = frozenset({"watch", "clock", "suitcase", "backpack", "phone", "speaker", "shoe", "headphones"})
STRONG_SHAPE = frozenset({
    "mug", "vase", "teapot", "lamp", "flask", "wine", "jar", "shampoo", "perfume", "tumbler", "suitcase", "candle",
})  # fmt: skip
LOOKALIKE_SHARE, RELISTED_SHARE = 25 / 86, 35 / 86


@dataclass
class Product:
    """One listing; `shots` are its pictures. family and product_id are given out at the end, shuffled."""

    slug: str
    family_key: str
    design: Design
    colour: str
    colours: tuple[Rgb, Rgb, Rgb]
    title: str
    shots: list[Shot]
    relisted_from: Product | None = None
    level: str = ""
    lookalike_of: Product | None = None
    product_id: str = ""
    family: str = ""
    files: list[str] = field(default_factory=list)


def _designs(seed: int, families: int) -> list[Design]:
    """The catalogue's designs, kinds in turn by weight, each kind's own designs spread over its range."""
    names = list(KINDS)
    weights = np.array([KINDS[k].weight for k in names])
    if families < len(names):
        order = np.random.default_rng([seed, 1]).permutation(len(names))[:families]
        counts = {names[i]: 1 for i in sorted(order)}
    else:
        exact = weights / weights.sum() * families
        floor = np.floor(exact).astype(int)
        for i in np.argsort(floor - exact, kind="stable")[: families - int(floor.sum())]:
            floor[i] += 1
        counts = dict(zip(names, (int(c) for c in floor), strict=True))
    # A prime number of strata: every stride visits each of them.
    return [Design(k, seed, i, 5 if n <= 5 else 7) for k, n in counts.items() for i in range(n)]


def _title(p: Design, colour: str, rng: Rng, dealer: bool) -> str:
    made = p.printed()
    word = made.words
    short = (
        p.kind
        if p.kind.lower() not in word.lower()
        and p.kind not in ("tshirt", "plantpot", "spray", "tumbler", "flask")
        else ""
    )
    thing = f"{word} {short}".strip()
    if not dealer:
        return f"{made.brand} {thing} {colour}"
    forms = (f"{thing} by {made.brand}, {colour}", f"{colour.title()} {thing} - {made.brand}",
             f"{made.brand} {colour} {thing} (new)", f"{thing.title()} / {made.brand} / {colour}")  # fmt: skip
    return forms[int(rng.integers(len(forms)))]


def _listing(
    tag: str, design: Design, colour: tuple[str, tuple[Rgb, Rgb, Rgb]], letter: int, rng: Rng
) -> Product:
    count = int(rng.choice([1, 2, 3], p=[0.08, 0.22, 0.7]))
    shots = [shop_shot(KINDS[design.kind], rng, i) for i in range(count)]
    slug = f"{design.kind}-{tag}-{'abcd'[letter]}"
    return Product(
        slug, f"{design.kind}-{tag}", design, *colour, _title(design, colour[0], rng, False), shots
    )


def _silhouette(design: Design, colours: tuple[Rgb, Rgb, Rgb]) -> npt.NDArray[np.float64]:
    """Half widths (16,) of the product at 16 heights, as shares of its longest side."""
    model, _ = build(design, colours)
    pos = model.mesh.pos if model.glass is None else np.concatenate([model.mesh.pos, model.glass.pos])
    size = np.ptp(pos, axis=0)
    height = (pos[:, 1] - pos[:, 1].min()) / float(size.max())
    bins = np.minimum((height * 16).astype(int), 15)
    out = np.zeros(16)
    np.maximum.at(out, bins, np.abs(pos[:, 0] - np.median(pos[:, 0])) / float(size.max()))
    return out


def _shapes_differ(design: Design, colours: tuple[Rgb, Rgb, Rgb]) -> bool:
    """Whether the design's look-alike in shape is another outline to the eye, not the same at another scale."""
    a, b = _silhouette(design, colours), _silhouette(shifted(design, "shape"), colours)
    return float(np.abs(a - b).mean()) > 0.045


def _axis(design: Design, colours: tuple[Rgb, Rgb, Rgb], rng: Rng) -> str | None:
    """In what a look-alike of the design may differ."""
    _, used = build(design, colours)
    options = {"label": 0.45, "pattern": 0.35, "shape": 0.25}
    if design.kind in FINE_PRINT or (design.kind == "tshirt" and "pattern" in used):
        del options["label"]
    if design.kind not in STRONG_SHAPE or not _shapes_differ(design, colours):
        del options["shape"]
    if design.kind == "phone":
        del options["pattern"]  # only the wallpaper on its screen
    names = [a for a in options if a in used]
    if not names:
        return None
    p = np.array([options[a] for a in names])
    return str(rng.choice(names, p=p / p.sum()))


def _lookalikes(originals: list[list[Product]], wanted: int, rng: Rng) -> list[Product]:
    """Products of other families that a hasty eye would merge with an original."""
    out: list[Product] = []
    number = 500
    for i in rng.permutation(len(originals)):
        if len(out) >= wanted:
            break
        family = originals[i]
        axis = _axis(family[0].design, family[0].colours, rng)
        if axis is None:
            continue
        design = shifted(family[0].design, axis)
        variants = 2 if len(family) > 2 and rng.random() < 0.4 and len(out) + 2 <= wanted else 1
        for letter, k in enumerate(rng.permutation(len(family))[:variants]):
            p = _listing(f"{number}", design, (family[k].colour, family[k].colours), letter, rng)
            p.lookalike_of = family[k]
            out.append(p)
        number += 1
    return out


def _relisted(originals: list[list[Product]], wanted: int, rng: Rng) -> list[Product]:
    """The same products again, by another dealer, in families of their own."""
    out: list[Product] = []
    number = 700
    for i in rng.permutation(len(originals)):
        if len(out) >= wanted:
            break
        family = originals[i]
        variants = min(len(family), wanted - len(out), int(rng.choice([1, 2], p=[0.6, 0.4])))
        for letter, k in enumerate(rng.permutation(len(family))[:variants]):
            source = family[k]
            level = LEVELS[len(out) % 3]
            kind = KINDS[source.design.kind]
            shots = [
                relisted_shot(kind, source.shots[j % len(source.shots)], level, rng, j)
                for j in range(int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15])))
            ]
            key = f"{source.design.kind}-{number}"
            out.append(Product(
                f"{key}-{'abcd'[letter]}", key, source.design, source.colour, source.colours,
                _title(source.design, source.colour, rng, True), shots, relisted_from=source, level=level,
            ))  # fmt: skip
        number += 1
    return out


def make_plan(seed: int, families: int) -> list[Product]:
    """Every product of the catalogue in the order of its (shuffled) id; `families` counts the ordinary ones."""
    rng = np.random.default_rng([seed, 2])
    originals: list[list[Product]] = []
    for number, design in enumerate(_designs(seed, families)):
        variants = int(rng.choice([1, 2, 3, 4], p=[0.22, 0.37, 0.27, 0.14]))
        ways = design.colourways(variants)
        originals.append([_listing(f"{number:03d}", design, way, i, rng) for i, way in enumerate(ways)])
    lookalikes = _lookalikes(originals, max(1, round(families * LOOKALIKE_SHARE)), rng)
    relisted = _relisted(originals, max(1, round(families * RELISTED_SHARE)), rng)
    products = [p for family in originals for p in family] + lookalikes + relisted
    keys = list(dict.fromkeys(p.family_key for p in products))
    family_ids = dict(zip(keys, rng.permutation(len(keys)), strict=True))
    for p, n in zip(products, rng.permutation(len(products)), strict=True):
        p.product_id, p.family = f"P{n + 1:06d}", f"F{family_ids[p.family_key] + 1:04d}"
        p.files = [f"images/{p.slug}_{i}.jpg" for i in range(len(p.shots))]
    return sorted(products, key=lambda p: p.product_id)
