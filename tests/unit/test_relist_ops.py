"""Relisting: each operation alone, the three levels, and training augmentation, on drawn pictures."""

from __future__ import annotations

import hashlib
import inspect

import cv2
import numpy as np
import pytest

from siamdedup.catalog import relist_overlays
from siamdedup.catalog.relist_ops import (
    AUGMENT_PROBABILITY,
    LEVELS,
    MIN_SIDE,
    OPERATIONS,
    augment,
    inset,
    relist,
)

EVERYTHING = tuple(OPERATIONS)
GRADUAL = tuple(name for name in OPERATIONS if name != "mirror")  # a mirror has no degrees


def picture(height: int = 192, width: int = 160, seed: int = 0) -> np.ndarray:
    """A product-like thing, full of detail and lopsided, in the middle of a white picture."""
    rng = np.random.default_rng(seed)
    out = np.full((height, width, 3), 255, np.uint8)
    top, bottom, left, right = height // 8, height - height // 8, width // 6, width - width // 6
    detail = cv2.resize(rng.integers(20, 200, (9, 6, 3), dtype=np.uint8), (right - left, bottom - top))
    out[top:bottom, left:right] = detail
    out[top : top + height // 3, left : left + width // 5] = (190, 30, 40)
    cv2.line(out, (left, bottom - 1), (right - 1, height // 2), (10, 10, 60), max(1, height // 40))
    return out


def blob_in_corner(side: int = 200) -> np.ndarray:
    """A small red product in the upper left of a white picture."""
    out = np.full((side, side, 3), 255, np.uint8)
    out[20:90, 15:95] = (200, 20, 30)
    return out


def red_pixels(image: np.ndarray) -> int:
    return int(((image[..., 0] > 120) & (image[..., 1] < 90) & (image[..., 2] < 90)).sum())


def difference_hash(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(
        int
    )
    return np.asarray(small[:, 1:] > small[:, :-1] + 2)  # a margin, or white on white would be a coin toss


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Mean difference in grey levels, after `after` is stretched to the size of `before`."""
    after = cv2.resize(after, (before.shape[1], before.shape[0]), interpolation=cv2.INTER_AREA)
    return float(np.abs(before.astype(float) - after).mean())


def assert_picture(image: np.ndarray) -> None:
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags["C_CONTIGUOUS"]


# --- single operations


def test_every_operation_of_the_brief_is_registered_in_the_order_of_use():
    assert (
        *("mirror", "rotate", "crop", "pad", "inset"),  # geometry
        *("text", "badge"),  # overlays
        *("greyscale", "light", "colour", "blur", "noise"),  # light and lens
        *("scale", "reencode"),  # codec
    ) == EVERYTHING
    assert set(AUGMENT_PROBABILITY) == set(OPERATIONS)


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(192, 160), (33, 132), (132, 33), (33, 33), (20, 45)])
def test_an_operation_gives_a_new_picture_and_leaves_its_input_alone(name, strength, shape):
    image = picture(*shape)
    kept = image.copy()
    for seed in range(3):
        out = OPERATIONS[name](image, np.random.default_rng(seed), strength)
        assert_picture(out)
        assert min(out.shape[:2]) >= min(MIN_SIDE, *shape)
        assert not np.shares_memory(out, image)
        out[...] = 7
        np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("name", GRADUAL)
def test_a_stronger_operation_changes_more(name):
    image = picture()

    def mean_change(strength: float) -> float:
        changes = [
            change(image, OPERATIONS[name](image, np.random.default_rng(seed), strength))
            for seed in range(25)
        ]
        return float(np.mean(changes))

    weak, strong = mean_change(0.15), mean_change(0.95)
    assert weak > 0
    assert weak * 1.15 < strong


@pytest.mark.parametrize("name", EVERYTHING)
def test_an_operation_repeats_itself_and_varies_with_the_seed(name):
    image = picture()
    first = OPERATIONS[name](image, np.random.default_rng(5), 0.7)
    np.testing.assert_array_equal(first, OPERATIONS[name](image, np.random.default_rng(5), 0.7))
    results = {OPERATIONS[name](image, np.random.default_rng(seed), 0.7).tobytes() for seed in range(8)}
    assert (len(results) == 1) == (name in ("mirror", "greyscale"))


def test_mirror_exchanges_left_and_right_exactly():
    image = picture()
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(OPERATIONS["mirror"](image, rng, 1.0), image[:, ::-1])


def test_greyscale_at_full_strength_leaves_no_colour():
    out = OPERATIONS["greyscale"](picture(), np.random.default_rng(0), 1.0)
    assert int(np.ptp(out, axis=2).max()) == 0


@pytest.mark.parametrize(("strength", "low", "high"), [(0.0, 0.8, 0.8), (1.0, 0.4, 0.56)])
def test_scale_makes_the_picture_really_smaller(strength, low, high):
    for seed in range(10):
        out = OPERATIONS["scale"](picture(400, 300), np.random.default_rng(seed), strength)
        assert low - 0.01 <= out.shape[0] / 400 <= high + 0.01
        assert low - 0.01 <= out.shape[1] / 300 <= high + 0.01


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_crop_strength_sets_the_area_kept(strength):
    for seed in range(10):
        out = OPERATIONS["crop"](picture(300, 240), np.random.default_rng(seed), strength)
        assert out.shape[0] * out.shape[1] / (300 * 240) == pytest.approx(1 - 0.6 * strength, abs=0.02)


def test_a_strong_crop_keeps_a_product_that_is_off_centre():
    image = blob_in_corner()
    tops = set()
    for seed in range(40):
        out = OPERATIONS["crop"](image, np.random.default_rng(seed), 1.0)
        assert red_pixels(out) >= 0.9 * red_pixels(image)
        tops.add(int(np.flatnonzero((out[..., 1] < 90).any(axis=1))[0]))
    assert len(tops) > 3, "the window is not always the same"


@pytest.mark.parametrize("inside", [40, 200], ids=["no content", "content everywhere"])
def test_a_crop_without_a_telling_border_stays_near_the_centre(inside):
    image = np.full((200, 200, 3), 40, np.uint8)
    image[1:-1, 1:-1] = inside
    for seed in range(20):
        top, left = relist_overlays.content_window(image, np.random.default_rng(seed), 110, 120)
        assert abs(top + 60 - 100) <= 25
        assert abs(left + 55 - 100) <= 25


def test_rotation_keeps_the_size_and_fills_with_the_border_colour():
    image = picture()
    image[(image == 255).all(axis=2)] = (40, 90, 160)
    for seed in range(10):
        out = OPERATIONS["rotate"](image, np.random.default_rng(seed), 1.0)
        assert out.shape == image.shape
        corners = out[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
        assert np.abs(corners - (40, 90, 160)).max() <= 2


def test_rotation_keeps_a_long_product_inside():
    image = np.full((200, 200, 3), 255, np.uint8)
    image[10:190, 20:180] = (200, 20, 30)
    for seed in range(20):
        out = OPERATIONS["rotate"](image, np.random.default_rng(seed), 0.5)
        frame = [out[0], out[-1], out[:, 0], out[:, -1]]
        assert min(int(line.min()) for line in frame) > 240, "no red touches the frame"
        assert red_pixels(out) > 0.6 * red_pixels(image)


def test_pad_keeps_the_picture_inside_and_changes_its_shape():
    image = picture()
    ratios = set()
    for seed in range(40):
        out = OPERATIONS["pad"](image, np.random.default_rng(seed), 0.8)
        height, width = out.shape[:2]
        assert height >= image.shape[0]
        assert width >= image.shape[1]
        assert height * width > image.shape[0] * image.shape[1]
        difference = cv2.matchTemplate(out, image, cv2.TM_SQDIFF).min() / image.size
        assert difference < 0.05, "the picture itself is unchanged between its borders"
        ratios.add(round(height / width, 2))
    assert len(ratios) > 10


def test_inset_stands_on_the_distractor():
    image = blob_in_corner()
    distractor = np.full((50, 70, 3), (10, 200, 90), np.uint8)
    for seed in range(12):
        out = inset(image, np.random.default_rng(seed), 1.0, distractor=distractor)
        share = float((np.abs(out.astype(int) - (10, 200, 90)).max(axis=2) <= 2).mean())
        assert 0.3 < share < 0.97
        assert 0.15 < red_pixels(out) / red_pixels(image) < 0.6, "the product is there, and smaller"


def test_inset_cuts_a_product_out_of_white_but_not_out_of_dark_cloth():
    cut = relist_overlays.cut_out(picture())
    assert cut is not None
    assert cut[0, 0] == 0
    assert cut[96, 80] == 255
    dark = np.full((120, 120, 3), 45, np.uint8)
    dark[40:80, 40:80] = 220
    assert relist_overlays.cut_out(dark) is None


@pytest.mark.parametrize("name", ["text", "badge"])
def test_an_overlay_changes_a_part_of_the_picture_only(name):
    image = picture(300, 240)
    for seed in range(30):
        out = OPERATIONS[name](image, np.random.default_rng(seed), 0.8)
        assert out.shape == image.shape
        touched = float((out != image).any(axis=2).mean())
        assert 0.002 < touched < 0.5


def test_a_badge_carries_writing_that_stands_out():
    flat = np.full((400, 400, 3), 140, np.uint8)
    for seed in range(30):
        out = OPERATIONS["badge"](flat, np.random.default_rng(seed), 1.0)
        grey = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[(out != flat).any(axis=2)]
        assert int(grey.max()) - int(grey.min()) > 95


def test_blur_removes_detail_and_noise_adds_it():
    image = picture(300, 240)

    def detail(pixels: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(pixels, cv2.CV_32F)).mean())

    for seed in range(8):
        rng = np.random.default_rng(seed)
        assert detail(OPERATIONS["blur"](image, rng, 0.8)) < 0.9 * detail(image)
        assert detail(OPERATIONS["noise"](image, rng, 0.8)) > 1.2 * detail(image)


def test_noise_has_the_promised_size_and_no_bias():
    flat = np.full((256, 256, 3), 128, np.uint8)
    out = OPERATIONS["noise"](flat, np.random.default_rng(3), 1.0).astype(float) - 128
    assert 6 < out.std() < 12
    assert abs(out.mean()) < 0.3


# --- levels


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(192, 160), (33, 132), (33, 33), (700, 525), (175, 700), (8, 50)])
def test_relist_returns_pictures_of_a_usable_size(level, shape):
    image = picture(*shape)
    for seed in range(6):
        out, done = relist(image, np.random.default_rng(seed), level)
        assert_picture(out)
        assert min(out.shape[:2]) >= MIN_SIDE
        assert len(done) == len(set(done)) == (2 if level == "easy" else 3)
        assert out.shape != image.shape or (out != image).any()


def test_a_level_draws_from_its_own_operations_and_uses_all_of_them():
    menus = {
        "easy": {"scale", "reencode"},
        "medium": {"crop", "light", "pad", "text", "reencode", "colour"},
        "hard": {"mirror", "crop", "rotate", "inset", "badge", "light", "blur", "colour"},
    }
    for level, menu in menus.items():
        used: set[str] = set()
        for seed in range(40):
            done = relist(picture(64, 48), np.random.default_rng(seed), level)[1]
            assert list(done) == [name for name in OPERATIONS if name in done], "told in the order applied"
            used.update(done)
        assert used == menu


def test_crops_keep_the_share_of_the_area_that_their_level_promises(monkeypatch):
    shares: dict[str, list[float]] = {"medium": [], "hard": []}
    original = OPERATIONS["crop"]
    for level, collected in shares.items():

        def recorded(image, rng, strength, collected=collected):
            out = original(image, rng, strength)
            collected.append(out.shape[0] * out.shape[1] / (image.shape[0] * image.shape[1]))
            return out

        monkeypatch.setitem(OPERATIONS, "crop", recorded)
        for seed in range(40):
            relist(picture(), np.random.default_rng(seed), level)
    assert shares["medium"]
    assert shares["hard"]
    assert min(shares["medium"]) > 0.68
    assert max(shares["medium"]) < 0.92
    assert min(shares["hard"]) > 0.38
    assert max(shares["hard"]) < 0.67


def test_levels_move_a_perceptual_hash_further_and_further():
    distances = {level: [] for level in LEVELS}
    for seed in range(40):
        image = picture(240, 200, seed)
        reference = difference_hash(image)
        for level in LEVELS:
            out = relist(image, np.random.default_rng(seed), level)[0]
            distances[level].append(int((difference_hash(out) != reference).sum()))
    easy, medium, hard = (float(np.mean(distances[level])) for level in LEVELS)
    assert easy < 3
    assert easy + 2 < medium
    assert medium + 2 < hard


@pytest.mark.parametrize("level", LEVELS)
def test_relist_is_reproducible_and_leaves_its_input_alone(level):
    image = picture()
    before = hashlib.sha256(image.tobytes()).hexdigest()
    distractor = picture(100, 100, seed=9)
    for seed in range(5):
        first = relist(image, np.random.default_rng(seed), level, distractor=distractor)
        second = relist(image, np.random.default_rng(seed), level, distractor=distractor)
        assert first[1] == second[1]
        np.testing.assert_array_equal(first[0], second[0])
    assert hashlib.sha256(image.tobytes()).hexdigest() == before


def test_relist_hands_the_distractor_to_inset():
    image = picture()
    distractor = np.full((64, 64, 3), (0, 255, 0), np.uint8)
    seen = 0
    for seed in range(30):
        out, done = relist(image, np.random.default_rng(seed), "hard", distractor=distractor)
        green = (out[..., 1] > out[..., 0].astype(int) + 60) & (out[..., 1] > out[..., 2].astype(int) + 60)
        if "inset" in done:
            assert green.mean() > 0.1
            seen += 1
    assert seen > 3


# --- training augmentation


def all_at(value: float) -> dict[str, float]:
    return dict.fromkeys(AUGMENT_PROBABILITY, value)


def test_augment_with_nothing_likely_is_the_identity_but_not_the_same_memory():
    image = picture()
    out = augment(image, np.random.default_rng(0), probability=all_at(0.0))
    np.testing.assert_array_equal(out, image)
    assert not np.shares_memory(out, image)


@pytest.mark.parametrize("shape", [(192, 192), (33, 132), (700, 525)])
def test_augment_with_everything_certain_works(shape):
    image = picture(*shape)
    for seed in range(4):
        out = augment(image, np.random.default_rng(seed), probability=all_at(1.0))
        assert_picture(out)
        assert min(out.shape[:2]) >= MIN_SIDE
        assert change(image, out) > 3


def test_augment_applies_each_operation_as_often_as_asked(monkeypatch):
    counts = dict.fromkeys(OPERATIONS, 0)
    for name in EVERYTHING:

        def counted(image, _rng, strength, name=name):
            assert 0.1 <= strength <= 0.9
            counts[name] += 1
            return image

        monkeypatch.setitem(OPERATIONS, name, counted)
    rng = np.random.default_rng(0)
    asked = {"mirror": 1.0, "blur": 0.0}
    for _ in range(600):
        augment(picture(32, 32), rng, probability=asked)
    for name, count in counts.items():
        expected = {**AUGMENT_PROBABILITY, **asked}[name]
        assert abs(count / 600 - expected) <= (0.08 if 0 < expected < 1 else 0)


def test_augment_is_reproducible_and_varied():
    image = picture(96, 96)
    results = []
    for seed in range(12):
        out = augment(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(out, augment(image, np.random.default_rng(seed)))
        results.append(out.tobytes())
    assert len(set(results)) >= 11


# --- what is refused


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((40, 40, 3), np.float32), "float32 of shape (40, 40, 3)"),
        (np.zeros((40, 40), np.uint8), "uint8 of shape (40, 40)"),
        (np.zeros((40, 40, 4), np.uint8), "uint8 of shape (40, 40, 4)"),
        (np.zeros((0, 40, 3), np.uint8), "uint8 of shape (0, 40, 3)"),
        ([[1, 2, 3]], "list"),
    ],
    ids=["float", "grey", "alpha", "empty", "list"],
)
def test_what_is_no_rgb_picture_is_refused_with_what_was_got(image, got):
    rng = np.random.default_rng(0)
    for call in (
        lambda: relist(image, rng, "easy"),
        lambda: relist(picture(), rng, "easy", distractor=image),
        lambda: augment(image, rng),
        lambda: OPERATIONS["light"](image, rng, 0.5),
        lambda: inset(picture(), rng, 0.5, distractor=image),
    ):
        with pytest.raises(ValueError, match="must be a uint8 array") as raised:
            call()
        assert str(raised.value).endswith(f"got {got}")


def test_an_unknown_level_is_refused_with_the_levels():
    with pytest.raises(ValueError, match="'brutal': choose one of easy, medium, hard"):
        relist(picture(), np.random.default_rng(0), "brutal")


def test_an_unknown_operation_or_probability_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown operation 'flip': choose from badge, blur") as raised:
        augment(picture(), rng, probability={"flip": 0.5})
    assert all(name in str(raised.value) for name in OPERATIONS)
    with pytest.raises(ValueError, match=r"probability of 'crop' must lie in 0\.\.1, got 1\.5"):
        augment(picture(), rng, probability={"crop": 1.5})


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match="strength must lie in"):
        OPERATIONS["blur"](picture(), np.random.default_rng(0), strength)


def test_a_view_with_strides_is_accepted():
    image = picture(120, 120)
    flipped = image[::-1, ::2]
    out, _ = relist(flipped, np.random.default_rng(1), "medium")
    np.testing.assert_array_equal(out, relist(flipped.copy(), np.random.default_rng(1), "medium")[0])


def test_operations_say_what_they_do():
    assert all(inspect.getdoc(operation) for operation in OPERATIONS.values())
