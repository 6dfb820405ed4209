"""Learning-rate schedules that PyTorch has only in parts."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, *, warmup: float = 0.1, final: float = 0.01
) -> LambdaLR:
    """Linear warm-up over ``warmup`` of the steps, then half a cosine down to ``final`` of the peak."""
    rise = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        done = min(1.0, (step - rise) / max(1, total_steps - rise))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)
