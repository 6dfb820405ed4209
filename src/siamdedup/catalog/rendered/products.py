"""The table of product kinds: who builds it, from where it is photographed, how many designs it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from siamdedup.catalog.rendered import (
    kinds_care,
    kinds_home,
    kinds_pack,
    kinds_play,
    kinds_room,
    kinds_soft,
    kinds_tech,
)
from siamdedup.catalog.rendered.design import Design, Draw
from siamdedup.catalog.rendered.scene import Model
from siamdedup.catalog.rendered.textures import Rgb


@dataclass(frozen=True)
class Kind:
    """Camera habits in degrees: usual azimuth and its spread, elevation range. Weight: share of the families."""

    build: Callable[[Draw], Model]
    azimuth: float = 0.0
    spread: float = 28.0
    low: float = 4.0
    high: float = 28.0
    weight: float = 1.0


KINDS: dict[str, Kind] = {
    "mug": Kind(kinds_home.mug, 0, 38, 8, 32, 1.5), "bowl": Kind(kinds_home.bowl, 0, 60, 18, 48),
    "vase": Kind(kinds_home.vase, 0, 40, 2, 22, 1.2), "plate": Kind(kinds_home.plate, 0, 40, 42, 80),
    "teapot": Kind(kinds_home.teapot, 0, 40, 8, 30), "plantpot": Kind(kinds_home.plantpot, 0, 50, 6, 26),
    "lamp": Kind(kinds_room.lamp, 0, 40, 2, 20), "candle": Kind(kinds_room.candle, 0, 28, 8, 30),
    "cushion": Kind(kinds_room.cushion, 0, 26, 2, 22), "clock": Kind(kinds_room.clock, 0, 30, 2, 22, 0.8),
    "suitcase": Kind(kinds_room.suitcase, 20, 30, 4, 22, 0.8), "wine": Kind(kinds_pack.wine, 0, 24, 2, 18, 1.2),
    "jar": Kind(kinds_pack.jar, 0, 26, 6, 28, 1.2), "tin": Kind(kinds_pack.tin, 0, 26, 8, 34, 1.2),
    "carton": Kind(kinds_pack.carton, 18, 22, 4, 28, 1.5), "milk": Kind(kinds_pack.milk, 20, 20, 6, 28),
    "shampoo": Kind(kinds_care.shampoo, 0, 26, 2, 20, 1.2), "tube": Kind(kinds_care.tube_pack, 0, 26, 2, 20),
    "spray": Kind(kinds_care.spray, 0, 26, 4, 22), "soap": Kind(kinds_care.soap, 0, 35, 32, 66),
    "perfume": Kind(kinds_care.perfume, 0, 26, 2, 20), "flask": Kind(kinds_pack.flask, 0, 28, 2, 20, 1.2),
    "tumbler": Kind(kinds_pack.tumbler, 0, 26, 6, 26, 0.8), "book": Kind(kinds_play.book, -20, 22, 4, 28, 1.3),
    "phone": Kind(kinds_tech.phone, 0, 24, 2, 18, 0.8), "speaker": Kind(kinds_tech.speaker, 0, 32, 4, 24),
    "headphones": Kind(kinds_tech.headphones, 40, 26, 2, 20), "watch": Kind(kinds_play.watch, 0, 22, 50, 82),
    "blocks": Kind(kinds_play.blocks, 0, 35, 12, 38, 0.7), "tshirt": Kind(kinds_soft.tshirt, 0, 10, 66, 86, 1.4),
    "backpack": Kind(kinds_soft.backpack, 0, 32, 4, 20), "shoe": Kind(kinds_soft.shoe, 10, 40, 8, 30, 1.3),
}  # fmt: skip


def build(design: Design, colours: tuple[Rgb, Rgb, Rgb]) -> tuple[Model, set[str]]:
    """The model of a design in one colourway, and the axes along which it can have a look-alike."""
    draw = Draw(design, colours)
    model = KINDS[design.kind].build(draw)
    return model, draw.used
