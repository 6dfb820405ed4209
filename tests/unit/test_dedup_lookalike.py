"""The fingerprint stage against each pair looked at by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.lookalike import RULES, FingerprintRule, lookalikes
from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.fingerprint.hashes import Fingerprints

OFF = dict.fromkeys(RULES)


def prints_of(rng, n, names=("dhash", "phash", "pdq")):
    """Some hashes near others, details on both sides of the limits; PDQ has none on some pictures."""
    detail = rng.choice(np.array([0.0, 0.04, 0.05, 0.1, 0.2, 0.5], np.float32), n)
    source = [int(rng.integers(0, max(1, row))) for row in range(n)]
    found = {}
    for name in names:
        size = 32 if name == "pdq" else 8
        bits = rng.integers(0, 256, (n, size)).astype(np.uint8)
        for row in range(1, n):
            if rng.random() < 0.7:
                bits[row] = bits[source[row]]
                for bit in rng.integers(0, 8 * size, rng.integers(0, 7 if size == 8 else 45)):
                    bits[row, bit // 8] ^= 1 << (bit % 8)
        own = np.where(rng.random(n) < 0.3, np.float32(0), detail) if name == "pdq" else detail
        found[name] = Fingerprints(bits, np.arange(n, dtype=np.int64) * 3, own)
    return found


def apart(one, a, b):
    return int((np.unpackbits(one.bits[a]) != np.unpackbits(one.bits[b])).sum())


def naive(prints, rule):
    """{(left, right): (rule, distance)} after the words of ``FingerprintRule``."""
    found, n = {}, len(prints["dhash"].bits)
    for a in range(n):
        for b in range(a + 1, n):
            d, p, q = (apart(prints[name], a, b) for name in ("dhash", "phash", "pdq"))
            least, least_pdq = (min(prints[name].detail[[a, b]]) for name in ("dhash", "pdq"))
            some, alone = np.float32(rule.detail), np.float32(rule.detail_alone)
            says = (
                (rule.pdq, q, least_pdq >= some),
                (rule.dhash_and_phash, max(d, p), least >= some),
                (rule.dhash, d, least >= alone),
                (rule.phash, p, least >= alone),
            )
            for number, (radius, distance, enough) in enumerate(says):
                if radius is not None and distance <= radius and enough:
                    found[a, b] = (number, distance)
                    break
    return found


def as_dict(pairs):
    assert (pairs.left.dtype, pairs.right.dtype) == (np.int64, np.int64)
    assert (pairs.rule.dtype, pairs.distance.dtype) == (np.int8, np.int16)
    columns = (pairs.rule.tolist(), pairs.distance.tolist())
    keys = list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert keys == sorted(set(keys))
    return dict(zip(keys, zip(*columns, strict=True), strict=True))


radii = st.one_of(st.none(), st.integers(0, 8))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 20), st.integers(0, 2**32), st.one_of(st.none(), st.integers(0, 60)), radii, radii, radii
)
def test_equals_each_pair_looked_at_by_itself(n, seed, pdq, both, dhash, phash):
    prints = prints_of(np.random.default_rng(seed), n)
    rule = FingerprintRule(pdq, both, dhash, phash)
    assert as_dict(lookalikes(prints, rule=rule)) == naive(prints, rule)


def test_every_rule_fires_somewhere_and_can_be_switched_off():
    prints = prints_of(np.random.default_rng(3), 80)
    fired = as_dict(lookalikes(prints))
    assert {number for number, _ in fired.values()} == {0, 1, 2, 3}
    for number, name in enumerate(RULES):
        left = as_dict(lookalikes(prints, rule=FingerprintRule(**{name: None})))
        assert left == naive(prints, FingerprintRule(**{name: None}))
        assert number not in {which for which, _ in left.values()}
    assert len(lookalikes(prints, rule=FingerprintRule(**OFF))) == 0


def equal_prints(detail, n=2, names=("dhash", "phash", "pdq")):
    rows, share = np.arange(n, dtype=np.int64), np.full(n, detail, np.float32)
    return {
        name: Fingerprints(np.zeros((n, 32 if name == "pdq" else 8), np.uint8), rows, share) for name in names
    }


@pytest.mark.parametrize(
    ("detail", "single", "every"), [(0.049, 0, 0), (0.05, 0, 1), (0.199, 0, 1), (0.2, 1, 1)]
)
def test_equal_fingerprints_need_detail_behind_them(detail, single, every):
    prints = equal_prints(detail)
    assert len(lookalikes(prints)) == every
    for name in ("dhash", "phash"):
        assert len(lookalikes(prints, rule=FingerprintRule(**{**OFF, name: 4}))) == single


def test_plain_pictures_never_meet_and_too_many_pairs_are_refused():
    assert len(lookalikes(equal_prints(0.01, 100_000))) == 0  # five thousand million equal pairs
    both = FingerprintRule(**{**OFF, "dhash_and_phash": 4})
    assert len(lookalikes(equal_prints(0.3, 100), rule=both, max_pairs=4950)) == 4950
    for rule in (both, None):
        with pytest.raises(SiamdedupError, match="more than 4,949 pairs"):
            lookalikes(equal_prints(0.3, 100), rule=rule, max_pairs=4949)


def test_pairs_of_one_hash_that_the_other_denies_do_not_count():
    prints = equal_prints(0.1, 300)
    bits = np.random.default_rng(0).integers(0, 256, (300, 8)).astype(np.uint8)
    prints["phash"] = Fingerprints(bits, prints["phash"].image_rows, prints["phash"].detail)
    both = FingerprintRule(**{**OFF, "dhash_and_phash": 4})
    assert len(lookalikes(prints, rule=both, max_pairs=0)) == 0  # 44,850 pairs agree in dHash


def test_a_rule_needs_its_hash():
    prints = equal_prints(0.3, names=("dhash",))
    with pytest.raises(ConfigError, match="pdq=null"):
        lookalikes(prints)
    assert len(lookalikes(prints, rule=FingerprintRule(**{**OFF, "dhash": 0}))) == 1
    other = Fingerprints(prints["dhash"].bits, np.array([0, 2]), prints["dhash"].detail)
    with pytest.raises(ValueError, match="same pictures"):
        lookalikes({**prints, "phash": other}, rule=FingerprintRule(**{**OFF, "dhash": 0}))


@pytest.mark.parametrize(
    "wrong", [{"pdq": 257}, {"dhash": 65}, {"phash": -1}, {"detail": 0.0}, {"detail_alone": 1.1}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FingerprintRule(**wrong)
