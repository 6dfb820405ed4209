"""Finite-sample guarantees on precision: "with confidence 95 %, at least 99 % of these merges are right".

Nothing is assumed about the merges: not how their distances are distributed, not that pairs are independent.
What is random is the sample that people judge, which is drawn uniformly from the file the promise is about, so
that the number of wrong ones in it is hypergeometric whatever the wrong ones have in common. A verdict is taken
for the truth: reviewers' errors are not covered. Where several thresholds are tried, "Learn then Test" keeps the
promise simultaneous (Angelopoulos et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, hypergeom

_ROUNDING = 1e-9  # 0.01 x 300 is 3 wrong merges, though not in floating point
# Beyond this many merges a sample of less than one in a thousand is as good as binomial: p-values of up to 5 % differ by
# less than 0.0001, on the safe side.
_FINITE = 1_000_000


def allowed_wrong(n_pairs: int, precision: float) -> int:
    """Most wrong merges that a file of ``n_pairs`` may hold at this precision."""
    return int(np.floor(n_pairs * (1 - precision) * (1 + _ROUNDING) + _ROUNDING))


def p_value(n_pairs: int, n_reviewed: int, n_wrong: int, precision: float, *, at_most: bool = False) -> float:
    """Chance of at most ``n_wrong`` wrong in the sample if the file's precision were below ``precision``.

    Exact (hypergeometric): ``n_reviewed`` of the file's ``n_pairs`` were drawn uniformly without replacement.
    Reviewing all of them leaves nothing to chance: 0 or 1.

    Args:
        at_most: ``n_pairs`` is only an upper limit: some merges of the file bear on no promise, and how many is
            not known. Then a bound, valid for every smaller number (see ``_too_many``).

    Raises:
        ValueError: impossible counts, or a precision outside (0, 1].
    """
    if not 0 < precision <= 1 or not 0 <= n_wrong <= n_reviewed <= n_pairs:
        raise ValueError(f"impossible: {n_wrong} wrong of {n_reviewed} reviewed of {n_pairs}, {precision}")
    too_many = _too_many(n_pairs, precision, at_most)
    if too_many > n_pairs:
        return 0.0
    return float(_at_most(n_wrong, n_pairs, too_many, n_reviewed))


def _too_many(n_pairs: int, precision: float, at_most: bool) -> int:
    """Fewest wrong merges that break the promise, of ``n_pairs`` or, with ``at_most``, of any number up to it.

    A file of 20 breaks 95 % with two wrong merges, one of 19 with a single one, which a sample of it misses more
    often: the larger file's p-value is too small for the smaller. That of ``n_pairs`` with one wrong merge less, a
    share that is still kept, is at least as large as any smaller file's wherever it is below 0.45 (one wrong merge
    always: by hand; more: the tests enumerate it).
    """
    allowed = allowed_wrong(n_pairs, precision)
    return max(1, allowed) if at_most else allowed + 1


def lower_bound(
    n_pairs: int, n_reviewed: int, n_wrong: int, confidence: float, *, at_most: bool = False
) -> float:
    """Exact lower confidence bound of the file's precision (Clopper & Pearson's, for a finite file).

    The largest number of wrong merges that the sample does not refute, by bisection. 0.0 for an empty sample.
    ``at_most`` as for ``p_value``: then the share of the smallest number that it refutes.
    """
    if not 0 < confidence < 1 or not 0 <= n_wrong <= n_reviewed <= n_pairs:
        raise ValueError(f"impossible: {n_wrong} wrong of {n_reviewed} reviewed of {n_pairs}, {confidence}")
    # Wrong merges: known to be possible, the most possible.
    low, high = n_wrong, n_pairs - (n_reviewed - n_wrong)
    while low < high:
        middle = (low + high + 1) // 2
        if _at_most(n_wrong, n_pairs, middle, n_reviewed) > 1 - confidence:
            low = middle
        else:
            high = middle - 1
    if not n_pairs:
        return 0.0
    return 1 - min(low + at_most, n_pairs) / n_pairs


def _at_most(x: Any, n_pairs: int, n_bad: int, n_drawn: int) -> Any:
    """P(at most x bad among n_drawn of n_pairs, n_bad of them bad), of the shape of x."""
    if n_pairs > _FINITE and n_drawn * 1000 < n_pairs:
        return binom.cdf(x, n_drawn, n_bad / n_pairs)
    return hypergeom.cdf(x, n_pairs, n_bad, n_drawn)


def reviews_needed(
    n_pairs: int,
    precision: float,
    alpha: float,
    *,
    wrong_rate: float = 0.0,
    power: float = 0.8,
    at_most: bool = False,
) -> int | None:
    """Fewest reviewed merges with which the promise is made with probability ``power``.

    With a few more the chance may be a little smaller again: counts of wrong merges are whole numbers.

    Args:
        n_pairs: merges in the file.
        alpha: chance of a false promise, 1 - confidence.
        wrong_rate: share of wrong merges that the file is thought to hold; 0 gives the fewest there can be.
        at_most: as for ``p_value``.

    Returns:
        At most ``n_pairs`` (then all are reviewed); None where the file itself misses the precision.
    """
    wrong, too_many = round(wrong_rate * n_pairs), _too_many(n_pairs, precision, at_most)
    if wrong > allowed_wrong(n_pairs, precision):
        return None
    if too_many > n_pairs:
        return min(1, n_pairs)

    def proving(most: int) -> int:
        """Fewest reviews of which ``most`` may be wrong."""
        return _first(lambda n: _at_most(most, n_pairs, too_many, n) <= alpha, most + 1, n_pairs)

    def likely(most: int) -> bool:
        return bool(_at_most(most, n_pairs, wrong, proving(most)) >= power)

    most = _first(likely, 0, too_many)
    return proving(most) if most < too_many else n_pairs


def _first(holds: Callable[[int], Any], low: int, high: int) -> int:
    """Smallest of low..high that ``holds``, ``high`` where none below does; once it holds it goes on holding."""
    step = 1
    while low < high and not holds(min(low + step - 1, high - 1)):
        low, step = min(low + step, high), step * 2
    high = min(low + step - 1, high)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def learn_then_test(
    p_values: Sequence[float], alpha: float, *, starts: int = 4, first: float = 0.5
) -> list[bool]:
    """Which of a sequence of hypotheses are rejected with a family-wise error of at most ``alpha``.

    Fixed-sequence testing with fallback (Wiens & Dmitrienko 2005), the form of "Learn then Test" for an order
    fixed beforehand: a rejected hypothesis hands its level on to the next, one that is not keeps it. The share
    ``first`` of the level stands at the first hypothesis, the rest in equal parts at ``starts - 1`` later ones,
    so that a few wrong merges among the very closest do not end the search.

    Args:
        p_values: valid for each hypothesis alone, in an order that was fixed before any verdict was known. They
            may depend on each other in any way.
    """
    levels = start_levels(len(p_values), alpha, starts, first)
    rejected, carried = [], 0.0
    for value, level in zip(p_values, levels, strict=True):
        available = carried + float(level)
        rejected.append(bool(value <= available) and available > 0)
        carried = available if rejected[-1] else 0.0
    return rejected


def start_levels(n: int, alpha: float, starts: int = 4, first: float = 0.5) -> npt.NDArray[np.float64]:
    """float64 (n,): the level that stands at each hypothesis of ``learn_then_test``; they add up to ``alpha``."""
    levels = np.zeros(n)
    later = min(starts, n) - 1
    if later <= 0:
        levels[:1] = alpha
        return levels
    levels[0] = first * alpha
    places = np.round(np.linspace(0, n - 1, later + 2)[1:-1] if n > later + 1 else np.arange(1, later + 1))
    levels[places.astype(int)] += (1 - first) * alpha / later
    return levels


def hoeffding_bentkus(losses: npt.NDArray[Any], alpha: float) -> float:
    """p-value of "the mean loss is above ``alpha``" for independent losses in [0, 1] (Bates et al. 2021).

    The smaller of Hoeffding's bound in its relative-entropy form and Bentkus' e x binomial tail; exact for no
    distribution, valid for all. 1.0 without losses.
    """
    n = len(losses)
    if not n:
        return 1.0
    if not 0 < alpha < 1 or not 0 <= np.min(losses) <= np.max(losses) <= 1:
        raise ValueError("losses must lie in [0, 1], alpha inside (0, 1)")
    mean = float(np.mean(losses))
    low = min(mean, alpha)
    entropy = (1 - low) * np.log((1 - low) / (1 - alpha)) + (low * np.log(low / alpha) if low > 0 else 0.0)
    bentkus = np.e * float(binom.cdf(np.ceil(n * mean - _ROUNDING), n, alpha))
    return float(min(1.0, np.exp(-n * entropy), bentkus))
