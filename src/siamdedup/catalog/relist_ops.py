"""What a second dealer does to a product photo before uploading it again.

The same operations plant duplicates of known truth (`relist`) and augment training pictures (`augment`).
Pictures are NumPy uint8 RGB arrays of shape (height, width, 3). An operation is called as
`operation(image, rng, strength)` with a strength from 0 (hardly anything) to 1 (as far as dealers go), never
changes its input, and draws all chance from `rng`: the same input and generator state give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Concatenate, ParamSpec

import cv2
import numpy as np
import simplejpeg

from siamdedup.catalog import relist_overlays as parts
from siamdedup.catalog.relist_overlays import Image, between, resize

LEVELS = ("easy", "medium", "hard")
MIN_SIDE = 32  # no operation makes a side shorter than this many pixels

Operation = Callable[[Image, np.random.Generator, float], Image]
OPERATIONS: dict[str, Operation] = {}
_P = ParamSpec("_P")


def _checked(image: object, what: str = "image") -> Image:
    if not isinstance(image, np.ndarray):
        got = type(image).__name__
    elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return np.ascontiguousarray(image)
    else:
        got = f"{image.dtype} of shape {image.shape}"
    raise ValueError(f"{what} must be a uint8 array of shape (height, width, 3), got {got}")


def _operation(
    function: Callable[Concatenate[Image, np.random.Generator, float, _P], Image],
) -> Callable[Concatenate[Image, np.random.Generator, float, _P], Image]:
    """Register `function` under its name; check what it is given, and give contiguous uint8 back."""

    @wraps(function)
    def checked(
        image: Image, rng: np.random.Generator, strength: float, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Image:
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must lie in 0..1, got {strength}")
        return np.ascontiguousarray(function(_checked(image), rng, strength, *args, **kwargs), dtype=np.uint8)

    OPERATIONS[function.__name__] = checked
    return checked


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _side(value: float, before: int) -> int:
    """A new side in pixels: at least MIN_SIDE, or the side from before where that was shorter already."""
    return max(round(value), min(MIN_SIDE, before))


@_operation
def mirror(image: Image, rng: np.random.Generator, strength: float) -> Image:  # noqa: ARG001
    """Left and right exchanged (at any strength)."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


@_operation
def rotate(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Turned by 3 to 25 degrees, shrunk where content would leave the picture; corners in border colour."""
    height, width = image.shape[:2]
    angle = _sign(rng) * between(rng, 3.0, 25.0, strength)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, parts.fit_turned(image, angle))
    fill = [float(value) for value in parts.border_colour(image)[0]]
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderValue=fill), np.uint8)


@_operation
def crop(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A window of 1 - 0.6 * strength of the area, of nearly the same shape, that keeps the content inside."""
    height, width = image.shape[:2]
    keep = 1.0 - 0.6 * strength
    stretch = float(np.clip(np.exp(rng.uniform(-0.15, 0.15)), keep**0.5, keep**-0.5))
    new_width = _side(width * keep**0.5 * stretch, width)
    new_height = _side(height * keep**0.5 / stretch, height)
    top, left = parts.content_window(image, rng, new_width, new_height)
    return image[top : top + new_height, left : left + new_width].copy()


@_operation
def pad(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Borders of up to 40 % of a side on two or four sides: white, black, a colour or blurred edges."""
    height, width = image.shape[:2]
    where = rng.random()
    amount_h = between(rng, 0.08, 0.4, strength) if where < 0.65 else 0.0
    amount_w = between(rng, 0.08, 0.4, strength) if where > 0.35 else 0.0
    added_h, added_w = int(np.ceil(amount_h * height)), int(np.ceil(amount_w * width))
    share_h, share_w = (0.5 if rng.random() < 0.7 else float(rng.uniform(0.0, 1.0)) for _ in range(2))
    top, left = round(added_h * share_h), round(added_w * share_w)
    bottom, right = added_h - top, added_w - left
    kind = rng.random()
    if kind < 0.75:
        colour = (255, 255, 255) if kind < 0.4 else (0, 0, 0) if kind < 0.55 else parts.any_colour(rng)
        flat = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour)
        return np.asarray(flat, np.uint8)
    return parts.blurred_edges(image, top, bottom, left, right)


@_operation
def inset(
    image: Image, rng: np.random.Generator, strength: float, *, distractor: Image | None = None
) -> Image:
    """Shrunk to 0.92-0.5 of its sides and put on another background, whole or cut out of a plain one.

    The background is a flat colour, a gradient, a texture, or `distractor` (uint8, (h, w, 3), any size).
    """
    height, width = image.shape[:2]
    factor = between(rng, 0.92, 0.5, strength)
    new_width, new_height = _side(width * factor, width), _side(height * factor, height)
    canvas_width = max(new_width, round(width * float(rng.uniform(0.88, 1.12))))
    canvas_height = max(new_height, round(height * float(rng.uniform(0.88, 1.12))))
    if distractor is None:
        out = parts.background(rng, canvas_width, canvas_height)
    else:
        out = resize(_checked(distractor, "distractor"), canvas_width, canvas_height)
    small = resize(image, new_width, new_height)
    top = round(float(rng.uniform(0.2, 0.8)) * (canvas_height - new_height))
    left = round(float(rng.uniform(0.2, 0.8)) * (canvas_width - new_width))
    coverage = parts.cut_out(small) if rng.random() < 0.5 else None
    whole = np.full((new_height, new_width), 255, dtype=np.uint8)
    parts.paint(out, whole if coverage is None else coverage, small, left, top)
    return out


@_operation
def text(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A caption bar, a price or dealer line, or a watermark drawn over the picture."""
    return parts.draw_text(image, rng, strength)


@_operation
def badge(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A sticker ("SALE -20%", "NEW", a dealer's plate) in a corner, or a ribbon across one."""
    return parts.draw_badge(image, rng, strength)


@_operation
def greyscale(image: Image, rng: np.random.Generator, strength: float) -> Image:  # noqa: ARG001
    """Colour taken away, wholly at strength 1."""
    grey = np.tile([0.299, 0.587, 0.114], (3, 1))
    matrix = np.eye(3) * (1 - strength) + grey * strength
    return np.asarray(cv2.transform(image, matrix.astype(np.float32)), np.uint8)


@_operation
def light(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Another exposure: gain, gamma and contrast by table, and every second time light that falls off."""
    amount = between(rng, 0.03, 0.4, strength)
    gain = np.exp(0.5 * amount if rng.random() < 0.5 else -amount)  # up by less: white paper burns out soon
    gamma = np.exp(strength * rng.uniform(-0.35, 0.35))
    contrast = np.exp(strength * rng.uniform(-0.35, 0.2))
    tone = (np.linspace(0, 1, 256) ** gamma * gain - 0.5) * contrast + 0.5
    out = cv2.LUT(image, np.clip(tone * 255 + 0.5, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        wide = cv2.resize(parts.uneven_light(rng, strength), (image.shape[1], image.shape[0]))
        out = cv2.multiply(out, wide, dtype=cv2.CV_8U)
    return np.asarray(out, np.uint8)


@_operation
def colour(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """White balance, saturation and a hue turned by up to 8 degrees, all as one 3x3 matrix."""
    warmth, tint = strength * rng.uniform((-0.14, -0.05), (0.14, 0.05))
    balance = np.diag(np.exp([warmth, tint, -warmth]))
    saturation = np.exp(_sign(rng) * between(rng, 0.05, 0.3, strength))
    angle = np.deg2rad(_sign(rng) * between(rng, 0.5, 8.0, strength))
    grey = np.full((3, 3), 1 / 3)
    # A turn about the grey axis: Rodrigues' formula for the axis (1, 1, 1) / sqrt(3).
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * axis + grey
    matrix = balance @ (saturation * np.eye(3) + (1 - saturation) * grey) @ turn
    return np.asarray(cv2.transform(image, matrix.astype(np.float32)), np.uint8)


@_operation
def blur(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Out of focus (sigma up to 0.8 % of the shorter side) or shaken (up to 4 % of it)."""
    short = min(image.shape[:2])
    if rng.random() < 0.6:
        sigma = max(0.4, between(rng, 0.002, 0.008, strength) * short)
        side = 2 * int(np.ceil(2 * sigma)) + 1
        return np.asarray(cv2.GaussianBlur(image, (side, side), sigma), np.uint8)
    length = max(2.0, between(rng, 0.01, 0.04, strength) * short)
    kernel = parts.motion_kernel(length, float(rng.uniform(0, np.pi)))
    return np.asarray(cv2.filter2D(image, -1, kernel), np.uint8)


@_operation
def noise(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Sensor noise of standard deviation 2 to 11, in colour or the same in every channel."""
    height, width = image.shape[:2]
    channels = 3 if rng.random() < 0.5 else 1
    # The difference of two random bytes (deviation 104.5) is nearly bell-shaped, and far faster than normals.
    first, second = (
        np.frombuffer(rng.bytes(height * width * channels), dtype=np.uint8).reshape(height, width, channels)
        for _ in range(2)
    )
    grain = cv2.subtract(first, second, dtype=cv2.CV_16S)
    if channels == 1:
        grain = cv2.merge([grain, grain, grain])
    deviation = between(rng, 2.0, 11.0, strength)
    return np.asarray(cv2.addWeighted(image, 1.0, grain, deviation / 104.5, 0.0, dtype=cv2.CV_8U), np.uint8)


@_operation
def scale(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A smaller picture: 0.8 down to 0.4 of its sides."""
    factor = between(rng, 0.8, 0.4, strength)
    height, width = image.shape[:2]
    return resize(image, _side(width * factor, width), _side(height * factor, height))


@_operation
def reencode(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """Saved as JPEG of quality 75 down to 30 and read again, every second time with coarser colour."""
    quality = round(between(rng, 75.0, 30.0, strength))
    sampling = "420" if rng.random() < 0.5 else "444"
    data = simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling=sampling)
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"), np.uint8)


# Operations apply in their order above. A level: how many of them, of which, how strong each (from, to).
_RECIPES: dict[str, tuple[int, dict[str, tuple[float, float]]]] = {
    "easy": (2, {"scale": (0.0, 1.0), "reencode": (0.0, 0.8)}),
    "medium": (3, {
        "crop": (1 / 6, 0.5), "light": (0.35, 0.65), "pad": (0.2, 0.7), "text": (0.2, 0.7),
        "reencode": (0.8, 1.0), "colour": (0.35, 0.65),
    }),
    "hard": (3, {
        "mirror": (1.0, 1.0), "crop": (0.35 / 0.6, 1.0), "rotate": (0.4, 1.0), "inset": (0.5, 1.0),
        "badge": (0.5, 1.0), "light": (0.75, 1.0), "blur": (0.6, 1.0), "colour": (0.75, 1.0),
    }),
}  # fmt: skip

AUGMENT_PROBABILITY: dict[str, float] = {
    "mirror": 0.5, "crop": 0.6, "light": 0.6, "colour": 0.5, "pad": 0.15, "rotate": 0.2, "inset": 0.12,
    "text": 0.12, "badge": 0.12, "blur": 0.1, "reencode": 0.15, "noise": 0.1, "greyscale": 0.0, "scale": 0.0,
}  # fmt: skip


def relist(
    image: Image, rng: np.random.Generator, level: str, *, distractor: Image | None = None
) -> tuple[Image, tuple[str, ...]]:
    """A second dealer's version of `image` at a level of `LEVELS`, and the names of what was done, in order.

    `image` and `distractor` (a background for `inset`) are uint8 RGB, (height, width, 3), of any size; the
    picture returned has sides of its own, none below MIN_SIDE pixels.
    """
    if level not in _RECIPES:
        raise ValueError(f"unknown level {level!r}: choose one of {', '.join(LEVELS)}")
    out = parts.at_least(_checked(image), MIN_SIDE)
    if distractor is not None:
        distractor = _checked(distractor, "distractor")
    count, strengths = _RECIPES[level]
    drawn = {str(name) for name in rng.choice(sorted(strengths), size=count, replace=False)}
    done = tuple(name for name in OPERATIONS if name in drawn)
    for name in done:
        strength = float(rng.uniform(*strengths[name]))
        if name == "inset":
            out = inset(out, rng, strength, distractor=distractor)
        else:
            out = OPERATIONS[name](out, rng, strength)
    return parts.at_least(out, MIN_SIDE), done


def augment(
    image: Image, rng: np.random.Generator, *, probability: Mapping[str, float] | None = None
) -> Image:
    """A training view of `image` (uint8 RGB, (height, width, 3)); its sides may differ from the input's.

    Each operation is applied independently with its probability, at a strength drawn from 0.1-0.9.
    `probability` replaces single defaults of `AUGMENT_PROBABILITY`; names it leaves out keep theirs.
    """
    chances = dict(AUGMENT_PROBABILITY)
    for name, value in (probability or {}).items():
        if name not in chances:
            raise ValueError(f"unknown operation {name!r}: choose from {', '.join(sorted(chances))}")
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"probability of {name!r} must lie in 0..1, got {value}")
        chances[name] = value
    out = _checked(image)
    for name, apply in OPERATIONS.items():
        if rng.random() < chances[name]:
            out = apply(out, rng, float(rng.uniform(0.1, 0.9)))
    return out.copy() if out is image else out
