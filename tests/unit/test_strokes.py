"""Line drawings drawn again: each distortion goes where it says, by how much it says, and on its own."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.embedding.strokes import Strokes, turned

NONE: dict[str, Any] = {
    "rotation": 0.0, "shear": 0.0, "scale": 0.0, "shift": 0.0, "elastic": 0.0, "pen": 0.0, "probability": 1.0,
}  # fmt: skip
# Places of the seven affine draws.
TURN, SHEAR_X, SHEAR_Y, WIDE, HIGH, X, Y = range(7)


class Drawn:
    """A generator whose affine draws, chances and elastic grid are given."""

    def __init__(
        self, place: int | None = None, value: float = 1.0, pen: float = 0.99, bend: float = 0.99
    ) -> None:
        self.affine = np.zeros(7)
        if place is not None:
            self.affine[place] = value
        self.last = np.array([pen, bend])

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        assert (low, high, size) == (-1, 1, 7)
        return self.affine

    def random(self, size: int) -> np.ndarray:
        return np.zeros(7) if size == 7 else self.last


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, 2)


def letter(size: int = 105) -> np.ndarray:
    """uint8 (size, size, 3): an asymmetric sign, dark on white, off the picture's edge."""
    image = np.full((size, size), 255, np.uint8)
    points = (np.array([[0.3, 0.2], [0.3, 0.8], [0.55, 0.8], [0.6, 0.6]]) * size).astype(np.int32)
    cv2.polylines(image, [points], False, 0, 3, cv2.LINE_AA)
    cv2.circle(image, (int(0.65 * size), int(0.3 * size)), size // 10, 0, -1, cv2.LINE_AA)
    return grey(image)


def blob(size: int = 101, at: tuple[int, int] = (50, 50), half: tuple[int, int] = (12, 12)) -> np.ndarray:
    """A filled rectangle: ``at`` and ``half`` its size as (x, y)."""
    image = np.full((size, size), 255, np.uint8)
    image[at[1] - half[1] : at[1] + half[1] + 1, at[0] - half[0] : at[0] + half[0] + 1] = 0
    return grey(image)


def ink(pixels: np.ndarray) -> float:
    return float((255.0 - pixels[..., 0]).sum() / 255)


def extent(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column, first and last row of more than half ink."""
    rows, columns = np.nonzero(pixels[..., 0] < 128)
    return columns.min(), columns.max(), rows.min(), rows.max()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_without_ranges_the_drawing_stays_as_it_is(
    seed: int, height: int, width: int, probability: float
) -> None:
    rng = np.random.default_rng(seed)
    pixels = grey(rng.integers(0, 256, (height, width), dtype=np.uint8))
    drawn = Strokes(**{**NONE, "probability": probability})(pixels, rng)
    assert np.array_equal(drawn, pixels)


def test_probability_zero_leaves_every_distortion_out() -> None:
    strokes = Strokes(rotation=30, shear=0.5, scale=0.4, shift=0.2, elastic=0.1, pen=0.0, probability=0.0)
    for seed in range(10):
        assert np.array_equal(strokes(letter(), np.random.default_rng(seed)), letter())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(30, 110), st.integers(30, 110))
def test_draws_are_the_generators_and_the_drawing_keeps_its_form(seed: int, height: int, width: int) -> None:
    pixels = cv2.resize(letter(), (width, height), interpolation=cv2.INTER_AREA)
    before = pixels.copy()
    strokes = Strokes(rotation=15, shear=0.3, scale=0.2, shift=0.05, elastic=0.02, pen=0.15, probability=0.7)
    drawn = strokes(pixels, np.random.default_rng(seed))
    assert drawn.dtype == np.uint8
    assert drawn.shape == pixels.shape
    assert np.array_equal(pixels, before)
    assert (drawn == drawn[..., :1]).all()
    assert np.array_equal(drawn, strokes(pixels, np.random.default_rng(seed)))


def test_a_drawing_stays_a_drawing() -> None:
    strokes = Strokes(rotation=15, shear=0.3, scale=0.2, shift=0.05, elastic=0.02, pen=0.15, probability=0.7)
    amount = [ink(strokes(letter(), np.random.default_rng(seed))) / ink(letter()) for seed in range(150)]
    assert 0.3 < min(amount) < 0.7
    assert 1.3 < max(amount) < 2.5
    assert np.median(amount) == pytest.approx(1, abs=0.15)


def test_strokes_thinner_than_three_pixels_vanish_under_the_thinner_pen() -> None:
    """As documented: a picture that holds nothing else is then blank."""
    thin = Strokes(**{**NONE, "pen": 0.2})(blob(half=(0, 20)), Drawn(pen=0.3))  # type: ignore[arg-type]
    assert ink(thin) == 0


def test_seeds_differ_and_read_only_pixels_will_do() -> None:
    strokes = Strokes()
    pixels = letter()
    pixels.setflags(write=False)  # as the pixel store gives them
    drawn = [strokes(pixels, np.random.default_rng(seed)) for seed in range(8)]
    assert len({d.tobytes() for d in drawn}) > 5


@pytest.mark.parametrize("turn", [1.0, -1.0, 0.4])
def test_rotation_is_that_of_opencv(turn: float) -> None:
    pixels = letter()
    drawn = Strokes(**{**NONE, "rotation": 25.0})(pixels, Drawn(TURN, turn))  # type: ignore[arg-type]
    # OpenCV's angle is anticlockwise as seen; with y down, ours is clockwise.
    matrix = cv2.getRotationMatrix2D((52.0, 52.0), -25.0 * turn, 1.0)
    oracle = cv2.warpAffine(pixels, matrix, (105, 105), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))
    assert np.abs(drawn.astype(int) - oracle).max() <= 8  # warpAffine rounds positions to 1/32 of a pixel
    assert np.abs(drawn.astype(int) - pixels).max() > 200


def test_the_whole_distortion_is_scale_then_shear_then_rotation_then_shift() -> None:
    rng = Drawn()
    rng.affine = np.array([0.6, -0.5, 0.7, 0.5, -0.8, 0.9, -0.4])
    strokes = Strokes(rotation=20, shear=0.3, scale=0.2, shift=0.05, elastic=0, pen=0, probability=1.0)
    drawn = strokes(letter(), rng)  # type: ignore[arg-type]
    angle = np.deg2rad(12)
    linear = (
        np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        @ np.array([[1, -0.15], [0.21, 1]])
        @ np.diag([1.1, 0.84])
    )
    shift = 0.05 * 105 * np.array([0.9, -0.4])
    matrix = np.hstack([linear, (np.array([52, 52]) + shift - linear @ [52, 52])[:, None]])
    oracle = cv2.warpAffine(letter(), matrix, (105, 105), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))
    assert np.abs(drawn.astype(int) - oracle).max() <= 12


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_shift_moves_right_and_down_by_its_share_of_the_side(value: float) -> None:
    strokes = Strokes(**{**NONE, "shift": 0.1})
    pixels = blob()[:81]  # 101 wide, 81 high
    right = strokes(pixels, Drawn(X, value))  # type: ignore[arg-type]
    down = strokes(pixels, Drawn(Y, value))  # type: ignore[arg-type]
    left, last, top, bottom = extent(pixels)
    dx, dy = round(10.1 * value), round(8.1 * value)
    assert extent(right) == (left + dx, last + dx, top, bottom)
    assert extent(down) == (left, last, top + dy, bottom + dy)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_scale_widens_one_axis_about_the_centre(value: float) -> None:
    strokes = Strokes(**{**NONE, "scale": 0.25})
    wide = strokes(blob(), Drawn(WIDE, value))  # type: ignore[arg-type]
    high = strokes(blob(), Drawn(HIGH, value))  # type: ignore[arg-type]
    assert ink(wide) == pytest.approx((1 + 0.25 * value) * ink(blob()), rel=0.03)
    half = 12 * (1 + 0.25 * value)
    for found, same in ((extent(wide)[:2], extent(wide)[2:]), (extent(high)[2:], extent(high)[:2])):
        assert found == pytest.approx((50 - half, 50 + half), abs=1)
        assert same == (38, 62)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_shear_slants_one_axis_and_keeps_the_ink(value: float) -> None:
    strokes = Strokes(**{**NONE, "shear": 0.4})
    bar = blob(half=(2, 20))
    slanted = strokes(bar, Drawn(SHEAR_X, value))  # type: ignore[arg-type]
    weight = 255.0 - slanted[..., 0]
    for row in (35, 50, 65):  # x grows by shear * (y - centre)
        assert np.average(np.arange(101), weights=weight[row]) == pytest.approx(
            50 + 0.4 * value * (row - 50), abs=0.1
        )
    assert ink(slanted) == pytest.approx(ink(bar), rel=0.02)
    lying = strokes(blob(half=(20, 2)), Drawn(SHEAR_Y, value))  # type: ignore[arg-type]
    assert np.array_equal(lying, slanted.transpose(1, 0, 2))


def test_pen_is_thicker_below_its_chance_thinner_up_to_twice_and_else_the_same() -> None:
    strokes = Strokes(**{**NONE, "pen": 0.2})
    pixels = blob(half=(2, 20))
    thick, thin, same = (strokes(pixels, Drawn(pen=p)) for p in (0.1, 0.3, 0.5))  # type: ignore[arg-type]
    assert extent(thick) == (47, 53, 29, 71)
    assert extent(thin) == (49, 51, 31, 69)
    assert np.array_equal(same, pixels)
    assert ink(thin) < ink(pixels) < ink(thick)


def test_pen_comes_as_often_as_it_says() -> None:
    strokes = Strokes(**{**NONE, "pen": 0.2})
    rng = np.random.default_rng(0)
    amount = np.array([ink(strokes(letter(40), rng)) for _ in range(1000)])
    usual = ink(letter(40))
    for share in ((amount > usual).mean(), (amount < usual).mean()):
        assert share == pytest.approx(0.2, abs=0.04)


def test_elastic_bends_smoothly_and_by_its_share_of_the_side() -> None:
    wavy = Strokes(**{**NONE, "elastic": 0.02})
    bar = blob(size=201, at=(100, 100), half=(2, 80))
    centres = []
    for seed in range(12):
        weight = 255.0 - wavy(bar, np.random.default_rng(seed))[40:161, :, 0]
        centres.append((weight * np.arange(201)).sum(1) / weight.sum(1) - 100)
    moved = np.array(centres)
    assert 0.4 * 4 < moved.std() < 1.5 * 4  # 2 % of 201 pixels, less between the grid's points
    assert np.abs(np.diff(moved, axis=1)).max() < 1  # no jump along the stroke
    assert moved.std(axis=1).min() > 0.2  # bent, not shifted


@pytest.mark.parametrize(
    "other", [{"elastic": 0.02}, {"elastic": 0.02, "elastic_grid": 7}, {"pen": 0.3}, {"shear": 0.3}], ids=str
)
def test_one_setting_does_not_move_anothers_draws(other: dict[str, Any]) -> None:
    """With ``other`` in force the rotation, and what was already on, is drawn as without it."""

    class Recorded:
        def __init__(self, seed: int) -> None:
            self.rng, self.calls = np.random.default_rng(seed), []

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any) -> Any:
                found = getattr(self.rng, name)(*args)
                self.calls.append((name, np.array(found)))
                return found

            return call

    for seed in range(20):
        alone, together = Recorded(seed), Recorded(seed)
        Strokes(**{**NONE, "rotation": 20.0})(letter(40), alone)  # type: ignore[arg-type]
        Strokes(**{**NONE, "rotation": 20.0, **other})(letter(40), together)  # type: ignore[arg-type]
        shared = together.calls[: len(alone.calls)]
        for (name, values), (other_name, other_values) in zip(alone.calls, shared, strict=True):
            assert name == other_name
            assert np.array_equal(values, other_values)
        assert {name for name, _ in together.calls[len(alone.calls) :]} <= {"normal"}


def test_an_added_range_of_nothing_drawn_leaves_the_rest_alone() -> None:
    for seed in range(20):
        plain = Strokes(**{**NONE, "rotation": 20.0, "probability": 0.5})(
            letter(), np.random.default_rng(seed)
        )
        bent = Strokes(**{**NONE, "rotation": 20.0, "probability": 0.5, "elastic": 1e-9})
        assert np.abs(bent(letter(), np.random.default_rng(seed)).astype(int) - plain).max() <= 1


# --- views ---


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_views_are_quarter_turns_mirrored_first_from_four_on(
    view: int, height: int, width: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = pixels
    if view >= 4:
        expected = np.flip(expected, axis=1)
    for _ in range(view % 4):
        expected = np.rot90(expected)
    found = turned(pixels, view)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous
    assert found.dtype == np.uint8


def test_the_eight_views_of_an_asymmetric_sign_differ() -> None:
    views = [turned(letter(), view) for view in range(8)]
    assert len({v.tobytes() for v in views}) == 8
    assert np.array_equal(views[0], letter())
    assert {ink(v) for v in views} == {ink(letter())}
    # Anticlockwise: what was at the right edge is then at the top.
    mark = np.full((5, 5, 3), 255, np.uint8)
    mark[2, 4] = 0
    assert turned(mark, 1)[0, 2].max() == 0


@pytest.mark.parametrize("view", [-1, 8])
def test_there_is_no_ninth_view(view: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.7"):
        turned(letter(), view)
