"""A product design as seeds: its measures, styles, prints, patterns and colours; and the parts a builder collects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from siamdedup.catalog.rendered import labels, textures
from siamdedup.catalog.rendered.meshes import Mesh, merge
from siamdedup.catalog.rendered.raster import U8
from siamdedup.catalog.rendered.scene import Material, Model
from siamdedup.catalog.rendered.textures import Rgb

COLOURS: tuple[tuple[str, Rgb], ...] = (
    ("white", (0.95, 0.95, 0.94)), ("black", (0.08, 0.08, 0.09)), ("grey", (0.52, 0.53, 0.55)),
    ("navy", (0.10, 0.16, 0.34)), ("sky blue", (0.45, 0.70, 0.88)), ("royal blue", (0.12, 0.32, 0.75)),
    ("teal", (0.05, 0.45, 0.47)), ("mint", (0.62, 0.86, 0.76)), ("forest green", (0.10, 0.32, 0.18)),
    ("lime", (0.62, 0.78, 0.20)), ("olive", (0.42, 0.42, 0.20)), ("mustard", (0.85, 0.65, 0.15)),
    ("yellow", (0.97, 0.85, 0.25)), ("orange", (0.94, 0.50, 0.12)), ("terracotta", (0.74, 0.38, 0.25)),
    ("red", (0.80, 0.10, 0.12)), ("burgundy", (0.42, 0.06, 0.14)), ("rose", (0.93, 0.62, 0.66)),
    ("pink", (0.92, 0.35, 0.58)), ("lilac", (0.72, 0.62, 0.86)), ("purple", (0.40, 0.18, 0.52)),
    ("brown", (0.36, 0.22, 0.14)), ("sand", (0.84, 0.75, 0.60)), ("cream", (0.95, 0.91, 0.80)),
)  # fmt: skip


def unit(*key: object) -> float:
    """A fixed number in [0, 1) for a key; the same on every machine and Python."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def _light(c: Rgb) -> float:
    return 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2]


@dataclass(frozen=True)
class Design:
    """Everything about a product but its colour. `rank` of `ranks` spreads one kind's designs over its range."""

    kind: str
    seed: int
    rank: int
    ranks: int
    shape_shift: float = 0.0
    label_shift: int = 0
    pattern_shift: int = 0

    def key(self, *more: object) -> float:
        return unit(self.seed, self.kind, self.rank, *more)

    def printed(self) -> labels.Print:
        k = self.label_shift
        rng = np.random.default_rng([self.seed, int(self.key("print") * 2**31), k])
        first = int(unit(self.seed, self.kind, "emblem") * 16) + self.rank * 5 + 7 * k
        words = WORDS[self.kind]
        return labels.Print(
            textures.brand_name(rng), words[(self.rank + 3 * k) % len(words)], labels.EMBLEMS[first % 16],
            labels.LAYOUTS[(int(unit(self.seed, self.kind, "layout") * 6) + self.rank + (k % 2) * 2) % 6],
            int(rng.integers(2**31)),
        )  # fmt: skip

    def colourways(self, count: int) -> list[tuple[str, tuple[Rgb, Rgb, Rgb]]]:
        """Names and (main, second, accent) of the design's colour variants."""
        n = len(COLOURS)
        start = int(unit(self.seed, self.kind, "colour") * n) + self.rank * 7
        second_dark = self.key("second") < 0.3
        out = []
        for i in range(count):
            name, main = COLOURS[(start + i * 5) % n]
            pale = COLOURS[0 if self.key("pale") < 0.6 else 23][1]
            other = (
                (0.10, 0.11, 0.14) if _light(main) > 0.6 or (second_dark and _light(main) > 0.25) else pale
            )
            accent = COLOURS[(start + i * 5 + 4 + int(self.key("accent") * 15)) % n][1]
            out.append((name, (main, other, accent)))
        return out


@dataclass
class Draw:
    """One product being built: reads the design, collects parts and materials, notes what it made use of."""

    design: Design
    colours: tuple[Rgb, Rgb, Rgb]
    materials: list[Material] = field(default_factory=list)
    parts: list[Mesh] = field(default_factory=list)
    glass: list[Mesh] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    @property
    def main(self) -> Rgb:
        return self.colours[0]

    @property
    def second(self) -> Rgb:
        return self.colours[1]

    @property
    def accent(self) -> Rgb:
        return self.colours[2]

    def u(self, name: str, lo: float, hi: float) -> float:
        """A measure in [lo, hi): one kind's designs take different strata of the range."""
        self.used.add("shape")
        d = self.design
        stride = 1 + int(unit(d.kind, name, "stride") * (d.ranks - 1)) if d.ranks > 1 else 0
        t = (
            unit(d.seed, d.kind, name)
            + (d.rank * stride % d.ranks + 0.5 * d.key(name)) / d.ranks
            + d.shape_shift
        )
        return lo + (hi - lo) * (t % 1.0)

    def pick(self, name: str, n: int) -> int:
        """One of n styles; neighbours in rank differ."""
        return (self.design.rank + int(unit(self.design.seed, self.design.kind, name, "pick") * n)) % n

    def chance(self, name: str, p: float) -> bool:
        return self.design.key(name, "chance") < p

    def mat(self, **kw: object) -> int:
        self.materials.append(Material(**kw))  # type: ignore[arg-type]
        return len(self.materials) - 1

    def gloss(self, colour: Rgb = (1, 1, 1), texture: U8 | None = None, rough: float = 0.12) -> int:
        return self.mat(colour=colour, texture=texture, rough=rough, f0=0.05)

    def matte(
        self, colour: Rgb = (1, 1, 1), texture: U8 | None = None, rough: float = 0.5, grain: float = 0.0
    ) -> int:
        return self.mat(colour=colour, texture=texture, rough=rough, f0=0.035, grain=grain)

    def paper(self, texture: U8) -> int:
        return self.mat(texture=texture, rough=0.6, f0=0.03)

    def metal(self, colour: Rgb = (0.86, 0.86, 0.87), rough: float = 0.22, texture: U8 | None = None) -> int:
        return self.mat(colour=colour, texture=texture, rough=rough, f0=0.5, metal=1.0)

    def cloth(self, colour: Rgb = (1, 1, 1), texture: U8 | None = None, grain: float = 0.22) -> int:
        return self.mat(colour=colour, texture=texture, rough=1.0, f0=0.0, sheen=0.6, grain=grain)

    def clear(self, tint: Rgb = (0.93, 0.97, 0.96), amount: float = 0.92, rough: float = 0.03) -> int:
        return self.mat(colour=tint, rough=rough, f0=0.045, clear=amount)

    def add(self, *meshes: Mesh) -> None:
        self.parts += meshes

    def label(self, h: int, w: int, tinted: bool | None = None) -> U8:
        """The design's front label, on white or tinted paper."""
        self.used.add("label")
        p = self.design.printed()
        tint = self.chance("tinted", 0.45) if tinted is None else tinted
        main, dark = self.main, (0.1, 0.1, 0.13)
        if tint:
            return labels.label(
                p, h, w, main, (0.97, 0.97, 0.95) if _light(main) < 0.55 else dark, self.second
            )
        accent = main if _light(main) < 0.8 else self.accent
        if _light(accent) > 0.8:
            accent = dark
        return labels.label(p, h, w, (0.96, 0.95, 0.92), dark, accent)

    def back(self, h: int, w: int) -> U8:
        main = self.main if _light(self.main) < 0.7 else (0.15, 0.15, 0.2)
        return labels.back_label(self.design.printed(), h, w, (0.95, 0.95, 0.93), (0.3, 0.3, 0.32), main)

    def pattern(self, h: int, w: int, pitch: float = 0.16, colours: Sequence[Rgb] | None = None) -> U8:
        self.used.add("pattern")
        d = self.design
        rng = np.random.default_rng([d.seed, int(d.key("pattern") * 2**31), d.pattern_shift])
        start = int(unit(d.seed, d.kind, "pattern") * 16)
        name = textures.PATTERNS[(start + d.rank * 3 + d.pattern_shift * 7) % 16]
        return textures.pattern(
            name, rng, h, w, colours or self.colours, pitch * float(rng.uniform(0.75, 1.4))
        )

    def emblem(self, img: U8, cx: float, cy: float, r: float, colour: Rgb, hole: Rgb) -> None:
        """Stamp the design's emblem onto a texture in place (px)."""
        self.used.add("label")
        labels.emblem(
            img, self.design.printed().emblem, cx, cy, r, textures.byte(colour), textures.byte(hole)
        )

    def plain(self, h: int, w: int, colour: Rgb) -> U8:
        return np.full((h, w, 3), textures.byte(colour), np.uint8)

    def wood(self, h: int = 256, w: int = 512) -> U8:
        rng = np.random.default_rng([self.design.seed, int(self.design.key("wood") * 2**31)])
        return textures.surface_tile("wood", rng, 512)[:h, :w]

    def brand(self, img: U8, cx: float, cy: float, height: int, colour: Rgb, width: float = 0.0) -> U8:
        self.used.add("label")
        return textures.write(
            img, self.design.printed().brand, (cx, cy), height, textures.byte(colour), width
        )

    def model(self, cut: U8 | None = None, cut_mat: int = -1) -> Model:
        return Model(
            merge(self.parts), self.materials, merge(self.glass) if self.glass else None, cut, cut_mat
        )


def ink_on(c: Rgb) -> Rgb:
    """Black or white, whichever reads on c."""
    return (0.97, 0.97, 0.96) if _light(c) < 0.55 else (0.1, 0.1, 0.12)


def shifted(design: Design, axis: str) -> Design:
    """The look-alike of a design along one axis: shape, label or pattern."""
    if axis == "shape":
        return replace(design, shape_shift=design.shape_shift + 0.5)
    if axis == "label":
        return replace(design, label_shift=design.label_shift + 1)
    return replace(design, pattern_shift=design.pattern_shift + 1)


WORDS: dict[str, tuple[str, ...]] = {
    "mug": ("morning mug", "coffee mug", "camp mug"), "bowl": ("serving bowl", "breakfast bowl"),
    "vase": ("flower vase", "table vase", "stem vase"), "plate": ("dinner plate", "dessert plate"),
    "teapot": ("teapot", "infuser teapot"), "plantpot": ("planter", "herb pot", "flower pot"),
    "wine": ("Red Reserve", "Olive Oil", "Dry White", "Balsamic", "Cider"),
    "jar": ("Apricot Jam", "Wild Honey", "Pesto", "Pickles", "Peanut Cream", "Fig Spread"),
    "tin": ("Tomatoes", "Chick Peas", "Peaches", "Green Tea", "Coffee", "Sweet Corn"),
    "carton": ("Oat Crunch", "Corn Flakes", "Biscuits", "Black Tea", "Muesli", "Crackers"),
    "milk": ("Oat Drink", "Orange Juice", "Whole Milk", "Almond Drink", "Apple Juice"),
    "shampoo": ("Shampoo", "Body Wash", "Conditioner", "Hand Soap", "Lotion"),
    "tube": ("Hand Cream", "Toothpaste", "Sun Cream", "Face Mask", "Balm"),
    "spray": ("Deodorant", "Spray Paint", "Hair Spray", "Air Fresh", "Dry Lube"),
    "soap": ("Olive Soap", "Lavender Soap", "Shaving Soap"), "perfume": ("Eau de Parfum", "Cologne", "Eau Fraiche"),
    "candle": ("Cedar Candle", "Vanilla Candle", "Linen Candle"), "book": ("a novel", "essays", "a history", "field guide", "poems"),
    "phone": ("smartphone", "phone 5G", "compact phone"), "speaker": ("speaker", "wireless speaker", "bookshelf speaker"),
    "headphones": ("headphones", "studio headphones"), "watch": ("wrist watch", "field watch", "dress watch"),
    "lamp": ("table lamp", "bedside lamp"), "clock": ("alarm clock", "desk clock"),
    "flask": ("water bottle", "steel flask", "sports bottle"), "cushion": ("cushion", "throw pillow"),
    "backpack": ("backpack", "day pack", "school bag"), "tshirt": ("T-shirt", "crew tee"),
    "shoe": ("sneaker", "running shoe", "canvas shoe"), "blocks": ("toy blocks", "building set"),
    "tumbler": ("storage jar", "glass canister"), "suitcase": ("cabin suitcase", "trolley case"),
}  # fmt: skip
