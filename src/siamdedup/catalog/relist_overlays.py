"""The parts of which relisting is made: finding the product in a photo, backgrounds, writing and stickers.

Pictures are NumPy uint8 RGB arrays of shape (height, width, 3). All chance comes from the generator that the
caller hands in. Pillow draws every character once per process; afterwards lines of text are put together
from the cached glyphs, which is about a hundred times faster than having Pillow draw the line again.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_GLYPH_SIZE = 40  # font size in pixels at which glyphs are drawn; lines are then resized to what is needed
_STICKER_SIZE = 112  # side in pixels at which stickers are composed
_GRID = 48  # longest side, in cells, of the map on which the picture's content is looked up
_NEAR_BORDER = 16  # largest difference in any channel at which a pixel still counts as background
_PALETTE: tuple[Colour, ...] = (
    (214, 32, 39), (238, 119, 28), (250, 204, 21), (22, 145, 72), (13, 94, 175), (91, 44, 131),
    (222, 49, 121), (20, 20, 22), (120, 124, 130), (16, 133, 140),
)  # fmt: skip
_SYLLABLES = (
    "ba", "del", "fino", "ger", "hal", "ko", "lan", "mar", "nor", "pri", "quo", "ra", "sel", "ti", "ver",
    "wan", "zen",
)  # fmt: skip
_CLAIMS = (
    "Free shipping", "Best price", "Original", "2 years warranty", "In stock", "Fast delivery", "Top quality",
    "Limited offer", "Official dealer", "Buy 2 get 1", "Delivery in 24 h", "New collection", "Only today",
)  # fmt: skip
_STICKERS = (
    "SALE", "NEW", "HOT", "TOP", "BEST SELLER", "OFFER", "SPECIAL", "NEW IN", "ECO", "OUTLET", "DEAL",
)  # fmt: skip


def between(rng: np.random.Generator, mild: float, strong: float, strength: float) -> float:
    """A value from `mild` (strength 0) towards `strong` (strength 1), with 40 % of the way left to chance."""
    return mild + (strong - mild) * strength * (0.6 + 0.4 * rng.random())


def resize(image: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """`image` (h, w[, 3]) in `width` x `height` pixels; areas are averaged where it shrinks (no aliasing)."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def at_least(image: Image, side: int) -> Image:
    """`image`, enlarged if its shorter side has fewer than `side` pixels."""
    height, width = image.shape[:2]
    if min(height, width) >= side:
        return image
    factor = side / min(height, width)
    return resize(image, max(side, round(width * factor)), max(side, round(height * factor)))


def any_colour(rng: np.random.Generator) -> Colour:
    """A colour such as shops print with."""
    return _PALETTE[int(rng.integers(len(_PALETTE)))]


def _readable_on(colour: Colour) -> Colour:
    """White on dark colours, near-black on light ones."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (255, 255, 255) if luminance < 150 else (24, 24, 24)


def border_colour(image: Image) -> tuple[npt.NDArray[np.float32], float]:
    """The background colour: (median RGB of the outermost pixels, share of these that is near it)."""
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32)
    colour = np.median(frame, axis=0)
    return colour, float(np.mean(np.abs(frame - colour).max(axis=1) <= _NEAR_BORDER))


def content_map(image: Image) -> npt.NDArray[np.bool_]:
    """Where `image` differs from its border colour, on a grid of at most 48 cells a side (True = content)."""
    height, width = image.shape[:2]
    factor = min(1.0, _GRID / max(height, width))
    small = resize(image, max(1, round(width * factor)), max(1, round(height * factor)))
    colour, _ = border_colour(image)
    return np.asarray(np.abs(small.astype(np.float32) - colour).max(axis=2) > _NEAR_BORDER)


def content_window(image: Image, rng: np.random.Generator, wide: int, high: int) -> tuple[int, int]:
    """Where to cut `wide` x `high` pixels out of `image`: (top, left).

    Among all windows one is drawn from those that hold nearly as much content as the best. Content near the
    centre counts more, which also decides where all of the picture, or none of it, is content.
    """
    height, width = image.shape[:2]
    content = content_map(image)
    rows, columns = content.shape
    down, across = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    weight = np.exp(-(down**2) - across**2)
    if content.any():
        weight = weight * content
    total = np.pad(weight.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall = min(rows, max(1, round(high * rows / height)))
    broad = min(columns, max(1, round(wide * columns / width)))
    held = total[tall:, broad:] - total[:-tall, broad:] - total[tall:, :-broad] + total[:-tall, :-broad]
    good = np.flatnonzero(held >= 0.95 * held.max())
    row, column = divmod(int(good[int(rng.integers(good.size))]), held.shape[1])
    return min(height - high, round(row * height / rows)), min(width - wide, round(column * width / columns))


def fit_turned(image: Image, angle: float) -> float:
    """The factor (0.8 to 1) at which the content, turned by `angle` degrees, stays inside the picture."""
    content = content_map(image)
    rows, columns = np.nonzero(content)
    if not rows.size:
        return 1.0
    height, width = image.shape[:2]
    xs = (np.array([columns.min(), columns.max() + 1]) / content.shape[1] - 0.5) * width
    ys = (np.array([rows.min(), rows.max() + 1]) / content.shape[0] - 0.5) * height
    turn = cv2.getRotationMatrix2D((0, 0), angle, 1.0)[:, :2]
    corners = np.abs(turn @ np.array([[x, y] for x in xs for y in ys]).T).max(axis=1)
    return float(np.clip(1.0 / float((corners / (width / 2, height / 2)).max()), 0.8, 1.0))


def blurred_edges(image: Image, top: int, bottom: int, left: int, right: int) -> Image:
    """`image` with borders of so many pixels, in which its edges run on and blur."""
    height, width = image.shape[:2]
    step = max(1, max(height, width) // 32)  # made small, since nothing sharp is in a blurred border
    small = resize(image, max(1, width // step), max(1, height // step))
    above, below, before, behind = (side // step + 1 for side in (top, bottom, left, right))
    wide = cv2.copyMakeBorder(small, above, below, before, behind, cv2.BORDER_REPLICATE)
    blurred = np.asarray(cv2.GaussianBlur(wide, (0, 0), 2.0), np.uint8)
    out = resize(blurred, width + left + right, height + top + bottom)
    out[top : top + height, left : left + width] = image
    return out


def motion_kernel(length: float, angle: float) -> npt.NDArray[np.float32]:
    """A line of `length` pixels at `angle` (radians) through the middle of an odd square; it sums to 1."""
    side = 2 * int(np.ceil(length / 2)) + 1
    half = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    along = np.linspace(-1, 1, 4 * side)[:, None]  # four points a pixel draw a line without steps
    columns, rows = np.round(side // 2 + half * along).astype(int).T
    kernel = np.zeros((side, side), dtype=np.float32)
    np.add.at(kernel, (rows, columns), 1 / along.size)
    return kernel


def uneven_light(rng: np.random.Generator, strength: float) -> npt.NDArray[np.float32]:
    """A slightly tinted lamp to one side and darker corners: factors around 1, float32 (24, 24, 3)."""
    down, across = np.linspace(-1, 1, 24)[:, None, None], np.linspace(-1, 1, 24)[:, None]
    lean_y, lean_x, corners = strength * rng.uniform((-0.3, -0.3, 0.0), (0.3, 0.3, 0.15))
    tint = 1 + strength * rng.uniform(-0.15, 0.15, size=3)
    field = 1 + tint * (lean_y * down + lean_x * across) - corners * (down**2 + across**2)
    return field.astype(np.float32)


def background(rng: np.random.Generator, width: int, height: int) -> Image:
    """A flat colour, a gradient or a texture of `width` x `height` pixels."""
    kind = rng.random()
    tone = any_colour(rng) if rng.random() < 0.4 else tuple(rng.integers(90, 256, size=3))
    base = np.array(tone, dtype=np.float32)
    if kind < 0.3:
        return np.full((height, width, 3), base, dtype=np.uint8)
    if kind < 0.6:
        down, across = np.linspace(0, 1, 24)[:, None, None], np.linspace(0, 1, 24)[:, None]
        start, end, slope = rng.uniform((0.55, 0.55, -0.15), (1.1, 1.1, 0.15))
        ramp = base * (start + (end - start) * down + slope * across)
        return resize(np.clip(ramp, 0, 255).astype(np.uint8), width, height)
    cells = ((4, 40), (40, 4), (24, 24), (64, 64))[int(rng.integers(4))]  # planks, cloth, stone, carpet
    grain = rng.integers(-40, 41, size=(*cells, 1)).astype(np.float32) + base
    return resize(np.clip(grain, 0, 255).astype(np.uint8), width, height)


def cut_out(image: Image) -> Image | None:
    """Coverage (0-255, (height, width)) of the product; None where the background is not plain and light."""
    colour, plain = border_colour(image)
    # A plain dark frame is rather a close-up of dark cloth, which would be cut away.
    if plain < 0.7 or colour.min() < 150:
        return None
    low, high = np.clip([colour - _NEAR_BORDER, colour + _NEAR_BORDER], 0, 255).astype(np.uint8)
    near = cv2.copyMakeBorder(cv2.inRange(image, low, high), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=255)
    # Only what hangs together with the frame is background: a white label on a shirt stays.
    cv2.floodFill(near, None, (0, 0), 128)
    product = np.where(near[1:-1, 1:-1] == 128, 0, 255).astype(np.uint8)
    if not 0.05 < product.mean() / 255 < 0.9:
        return None
    return np.asarray(cv2.blur(product, (3, 3)), np.uint8)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_GLYPH_SIZE)


@lru_cache(maxsize=256)
def _glyph(character: str) -> Image:
    """Coverage (0-255) of one character in a cell as high as every other and as wide as the pen advances."""
    font = _font()
    width = max(1, round(font.getbbox(character)[2]), round(font.getlength(character)))
    cell = PillowImage.new("L", (width, round(_GLYPH_SIZE * 1.25)), 0)
    ImageDraw.Draw(cell).text((0, 0), character, fill=255, font=font)
    return np.asarray(cell, dtype=np.uint8)


def line_mask(text: str) -> Image:
    """Coverage of one line of text: uint8, (glyph height, width), blank rows above and below cut off."""
    mask = np.hstack([_glyph(character) for character in text])
    rows = np.flatnonzero(mask.max(axis=1))
    return np.ascontiguousarray(mask[rows[0] : rows[-1] + 1]) if rows.size else mask


def _fitted_line(text: str, height: float, max_width: float) -> Image:
    """`text` in letters `height` pixels high, smaller if it would get wider than `max_width` pixels."""
    mask = line_mask(text)
    factor = min(height / mask.shape[0], max_width / mask.shape[1])
    return resize(mask, max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[0] * factor)))


def paint(
    image: Image, coverage: Image, colour: Image | Colour, left: int, top: int, opacity: float = 1.0
) -> None:
    """Paint `colour` (one, or a picture as large as `coverage`) into `image` in place; edges clip it."""
    height, width = coverage.shape
    top_in, left_in = max(0, -top), max(0, -left)
    bottom_in, right_in = min(height, image.shape[0] - top), min(width, image.shape[1] - left)
    if bottom_in <= top_in or right_in <= left_in:
        return
    part = image[top + top_in : top + bottom_in, left + left_in : left + right_in]
    alpha = coverage[top_in:bottom_in, left_in:right_in, None].astype(np.float32) * np.float32(opacity / 255)
    ink = np.asarray(colour, dtype=np.float32)
    if ink.ndim == 3:
        ink = ink[top_in:bottom_in, left_in:right_in]
    under = part.astype(np.float32)
    part[...] = (under + (ink - under) * alpha + np.float32(0.5)).astype(np.uint8)


def _dealer(rng: np.random.Generator) -> str:
    count = 2 + int(rng.integers(2))
    return "".join(_SYLLABLES[int(index)] for index in rng.integers(len(_SYLLABLES), size=count)).capitalize()


def _price(rng: np.random.Generator) -> str:
    amount = f"{int(rng.integers(4, 400))}.{('99', '95', '00', '49')[int(rng.integers(4))]}"
    forms = (f"${amount}", f"{amount} EUR", f"only {amount}", f"${amount} - free shipping")
    return forms[int(rng.integers(4))]


def _line(rng: np.random.Generator) -> str:
    kind = int(rng.integers(4))
    if kind == 0:
        return _CLAIMS[int(rng.integers(len(_CLAIMS)))]
    if kind == 1:
        return f"www.{_dealer(rng).lower()}.com"
    if kind == 2:
        return f"{_dealer(rng)} Shop  No. {int(rng.integers(1000, 99999))}"
    return _price(rng)


def draw_text(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A copy of `image` with a caption bar, a price or dealer line, or a watermark, sized by `strength`."""
    out = image.copy()
    height, width = out.shape[:2]
    kind = rng.random()
    if kind < 0.35:
        _caption(out, rng, strength)
    elif kind < 0.65:
        colour = any_colour(rng)
        mask = _fitted_line(_line(rng), height * between(rng, 0.04, 0.1, strength), 0.8 * width)
        left = round(float(rng.uniform(0.03, 0.97)) * (width - mask.shape[1]))
        top = round(float(rng.choice((0.04, 0.07, 0.9, 0.96))) * (height - mask.shape[0]))
        if rng.random() < 0.5:  # a plate under the letters
            edge = max(1, mask.shape[0] // 3)
            plate = np.full((mask.shape[0] + 2 * edge, mask.shape[1] + 2 * edge), 255, dtype=np.uint8)
            paint(out, plate, colour, left - edge, top - edge, float(rng.uniform(0.6, 1.0)))
            colour = _readable_on(colour)
        paint(out, mask, colour, left, top, float(rng.uniform(0.8, 1.0)))
    else:
        _watermark(out, rng, strength)
    return out


def _caption(out: Image, rng: np.random.Generator, strength: float) -> None:
    """A bar across the bottom or the top of `out` with a line in it, painted in place."""
    height, width = out.shape[:2]
    colour = any_colour(rng)
    bar = max(3, round(height * between(rng, 0.05, 0.15, strength)))
    mask = _fitted_line(_line(rng), 0.6 * bar, 0.94 * width)
    top = 0 if rng.random() < 0.3 else height - bar
    opacity = 1.0 if rng.random() < 0.5 else float(rng.uniform(0.5, 0.9))
    paint(out, np.full((bar, width), 255, dtype=np.uint8), colour, 0, top, opacity)
    left = (width - mask.shape[1]) // 2 if rng.random() < 0.6 else round(0.03 * width)
    paint(out, mask, _readable_on(colour), left, top + (bar - mask.shape[0]) // 2)


def _watermark(out: Image, rng: np.random.Generator, strength: float) -> None:
    """A pale dealer name across the middle of `out`, or repeated all over it, painted in place."""
    height, width = out.shape[:2]
    name = f"www.{_dealer(rng).lower()}.com" if rng.random() < 0.5 else f"{_dealer(rng)} Shop"
    angle = float(rng.choice((0.0, 30.0, -30.0, 45.0)))
    repeated = rng.random() < 0.4
    share = (0.45 if repeated else 0.9) * between(rng, 0.6, 1.0, strength)
    mask = _fitted_line(name, 0.2 * height, share * width)
    if repeated:
        gap = cv2.copyMakeBorder(mask, mask.shape[0], mask.shape[0], 8, 8, cv2.BORDER_CONSTANT, value=0)
        reach = int(np.hypot(height, width)) + 1
        mask = np.tile(np.asarray(gap, np.uint8), (reach // gap.shape[0] + 1, reach // gap.shape[1] + 1))
    matrix = cv2.getRotationMatrix2D((mask.shape[1] / 2, mask.shape[0] / 2), angle, 1.0)
    matrix[:, 2] += (width - mask.shape[1]) / 2, (height - mask.shape[0]) / 2
    coverage = np.asarray(cv2.warpAffine(mask, matrix, (width, height)), dtype=np.uint8)
    colour = (255, 255, 255) if rng.random() < 0.35 else (110, 110, 116)
    paint(out, coverage, colour, 0, 0, between(rng, 0.25, 0.6, strength))


@lru_cache(maxsize=8)
def _outline(shape: str) -> Image:
    """Coverage of a sticker's shape: uint8, (_STICKER_SIZE, _STICKER_SIZE)."""
    mask = np.zeros((_STICKER_SIZE, _STICKER_SIZE), dtype=np.uint8)
    middle = _STICKER_SIZE / 2
    if shape == "plate":
        top, bottom = round(0.3 * _STICKER_SIZE), round(0.7 * _STICKER_SIZE)
        mask[top:bottom, 1:-1] = 255
        return mask
    points = 72 if shape == "round" else 32
    angles = np.arange(points) * (2 * np.pi / points)
    radii = np.full(points, 0.97 * middle)
    if shape == "star":
        radii[1::2] *= 0.84
    corners = np.stack([middle + radii * np.cos(angles), middle + radii * np.sin(angles)], axis=1)
    cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], (255,), lineType=cv2.LINE_AA, shift=4)
    return mask


def _sticker(rng: np.random.Generator, shape: str, text: str, colour: Colour) -> tuple[Image, Image]:
    """A round, star or plate sticker: (colours (s, s, 3), coverage (s, s)), turned a little."""
    coverage = _outline(shape)
    colours = np.full((_STICKER_SIZE, _STICKER_SIZE, 3), colour, dtype=np.uint8)
    if shape == "round" and rng.random() < 0.6:  # an inner ring, as printed stickers have
        middle, radius = _STICKER_SIZE // 2, round(0.42 * _STICKER_SIZE)
        cv2.circle(colours, (middle, middle), radius, _readable_on(colour), 2, cv2.LINE_AA)
    lines = text.split(" ")
    for index, word in enumerate(lines):
        mask = _fitted_line(word, (0.3 if len(lines) == 1 else 0.2) * _STICKER_SIZE, 0.74 * _STICKER_SIZE)
        centre = _STICKER_SIZE * (0.5 + 0.25 * (index - (len(lines) - 1) / 2))
        left, top = (_STICKER_SIZE - mask.shape[1]) // 2, round(centre - mask.shape[0] / 2)
        paint(colours, mask, _readable_on(colour), left, top)
    if shape == "plate":
        return colours, coverage
    turn = np.asarray(
        cv2.getRotationMatrix2D((_STICKER_SIZE / 2, _STICKER_SIZE / 2), float(rng.uniform(-20, 20)), 1.0),
        np.float64,
    )
    side = (_STICKER_SIZE, _STICKER_SIZE)
    turned = cv2.warpAffine(colours, turn, side, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8), np.asarray(cv2.warpAffine(coverage, turn, side), np.uint8)


def _ribbon(text: str, colour: Colour, right: bool) -> tuple[Image, Image]:
    """A band across an upper corner: (colours (s, s, 3), coverage (s, s))."""
    thickness, length = round(0.3 * _STICKER_SIZE), round(1.8 * _STICKER_SIZE)
    band = np.full((thickness, length, 3), colour, dtype=np.uint8)
    mask = _fitted_line(text, 0.55 * thickness, 0.9 * _STICKER_SIZE)
    left, top = (length - mask.shape[1]) // 2, (thickness - mask.shape[0]) // 2
    paint(band, mask, _readable_on(colour), left, top)
    turn = np.asarray(
        cv2.getRotationMatrix2D((length / 2, thickness / 2), -45.0 if right else 45.0, 1.0), np.float64
    )
    turn[:, 2] += np.array([_STICKER_SIZE - length, _STICKER_SIZE - thickness]) / 2
    side = (_STICKER_SIZE, _STICKER_SIZE)
    coverage = cv2.warpAffine(np.full((thickness, length), 255, dtype=np.uint8), turn, side)
    return np.asarray(cv2.warpAffine(band, turn, side), np.uint8), np.asarray(coverage, np.uint8)


def draw_badge(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A copy of `image` with a round, star or plate sticker or a corner ribbon; `strength` sets its size."""
    out = image.copy()
    height, width = out.shape[:2]
    shape = ("round", "star", "plate", "ribbon")[int(rng.integers(4))]
    text = _STICKERS[int(rng.integers(len(_STICKERS)))]
    if shape == "plate":
        text = _dealer(rng)
    elif rng.random() < 0.4:
        percent = f"-{5 * int(rng.integers(2, 15))}%"
        text = percent if rng.random() < 0.5 else f"SALE {percent}"
    colour = any_colour(rng)
    right = rng.random() < 0.5
    size = max(6, round(min(height, width) * between(rng, 0.18, 0.42, strength)))
    if shape == "ribbon":
        colours, coverage = _ribbon(text, colour, right)
        left, top = (width - size if right else 0), 0
    else:
        colours, coverage = _sticker(rng, shape, text, colour)
        edge = round(0.03 * min(height, width))
        left = width - size - edge if right else edge
        top = height - size - edge if rng.random() < 0.4 else edge
    paint(out, resize(coverage, size, size), resize(colours, size, size), left, top)
    return out
