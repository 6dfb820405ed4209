"""How much stands behind a fingerprint: of two plain pictures with one hash nobody knows that they are one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft
from PIL import Image

SIDE = 32  # pixels a side of the picture that pHash transforms
BLOCK = 8  # of its coefficients, those of the lowest 8 x 8 frequencies make the hash
# A cosine of one grey level's amplitude: what is fainter is noise of sensor, JPEG and resampling.
_FAINTEST = SIDE / 2

TRUSTED_DETAIL = 0.05
"""Detail from which a pair that agrees in dHash *and* pHash says something: some three coefficients. Blank
pictures, gradients and vignettes stay below it and often share a dHash (experiments/LOG.md, 2026-11-23)."""


def detail(image: Image.Image) -> float:
    """The effective number of low frequencies in a picture, as a share of the 63 that pHash looks at: 0..1.

    exp(Shannon entropy) of the energy shares of the DCT coefficients (the Hill number of order 1; Roy and
    Vetterli 2007 call it the effective rank of a spectrum), after the energy of a cosine of one grey level is
    taken off each. A blank picture has 0 and a plain gradient 1/63 to 2/63. A person on a white ground, as
    fashion shops show them, has 0.05 to 0.25, a shelf 0.1 to 0.5.

    How strong the gradients are does not tell: the silhouettes of two trousers on white are strong and alike.
    What tells is over how many independent patterns they are spread.
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    return float(effective_frequencies(grey[None])[0] / (BLOCK * BLOCK - 1))


def effective_frequencies(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 (n,): effective number, 0 or 1..63, of low frequencies in grey pictures (n, 32, 32), 0..255."""
    if grey.ndim != 3 or grey.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"need grey pictures (n, {SIDE}, {SIDE}), not {grey.shape}")
    low = scipy.fft.dctn(grey, axes=(1, 2), norm="ortho")[:, :BLOCK, :BLOCK]
    energy = np.maximum(low.reshape(len(grey), -1)[:, 1:] ** 2 - _FAINTEST**2, 0.0)  # without the mean
    total = energy.sum(1, keepdims=True)
    share = energy / np.where(total > 0, total, 1.0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return np.where(total[:, 0] > 0, np.exp(entropy), 0.0)
