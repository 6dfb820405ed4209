"""How much stands behind a fingerprint: of two plain pictures with one hash nobody knows that they are one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siamdedup.types import BoolArray, FloatArray

SIDE = 32  # pixels a side of the picture that pHash transforms
BLOCK = 8  # of its coefficients, those of the lowest 8 x 8 frequencies make the hash
# A cosine of one grey level's amplitude: what is fainter is noise of sensor, JPEG and resampling.
_FAINTEST = SIDE / 2

TRUSTED_DETAIL = 0.05
"""Detail from which a pair that agrees in dHash *and* pHash (each within 4 bits), or in PDQ or the PCA hash, says
something: some three coefficients. Blank pictures, gradients and vignettes stay below it, and share a dHash in a
quarter of all pairs (``benchmarks/fingerprints.py``)."""

TRUSTED_ALONE = 0.2
"""Detail from which dHash or pHash says something alone, within 4 bits. A silhouette on white has more than
``TRUSTED_DETAIL``: of Magento's pairs of different families 126 agree in dHash, 115 from ``TRUSTED_DETAIL`` on and
none from here on. aHash is not to be trusted alone at all (``benchmarks/fingerprints.py``)."""


def detail(spectrum: npt.NDArray[np.float64]) -> FloatArray:
    """float32 (n,) in 0..1: the effective number of low frequencies, as a share of the 63 that pHash looks at.

    exp(Shannon entropy) of the energy shares of the DCT coefficients (the Hill number of order 1; Roy and
    Vetterli 2007 call it the effective rank of a spectrum), after the energy of a cosine of one grey level is
    taken off each. A blank picture has 0 and a plain gradient 1/63 to 2/63. A person on a white ground, as
    fashion shops show them, has 0.05 to 0.25, a shelf 0.1 to 0.5.

    How strong the gradients are does not tell: the silhouettes of two trousers on white are strong and alike.
    What tells is over how many independent patterns they are spread.

    Args:
        spectrum: (n, 64), as ``hashes.spectrum`` gives it.
    """
    return (effective_frequencies(spectrum) / (BLOCK * BLOCK - 1)).astype(np.float32)


def effective_frequencies(spectrum: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 (n,): effective number, 0 or 1..63, of frequencies in orthonormal coefficients (n, 64), mean first."""
    if spectrum.ndim != 2 or spectrum.shape[1] != BLOCK * BLOCK:
        raise ValueError(f"need coefficients (n, {BLOCK * BLOCK}), not {spectrum.shape}")
    energy = np.maximum(spectrum[:, 1:].astype(np.float64) ** 2 - _FAINTEST**2, 0.0)  # without the mean
    total = energy.sum(1, keepdims=True)
    share = energy / np.where(total > 0, total, 1.0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return np.where(total[:, 0] > 0, np.exp(entropy), 0.0)


def trusted(detail: FloatArray, least: float = TRUSTED_DETAIL) -> BoolArray:
    """bool, as ``detail``: enough stands behind the fingerprints for their agreement to say something."""
    return np.asarray(detail) >= np.float32(least)
