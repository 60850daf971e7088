"""The learning rate of every step of a stage."""

import math

from petid_search.train.config import Schedule


def learning_rate(
    step: int, steps: int, *, peak: float, schedule: Schedule, warmup: float, reduced: float = 1.0
) -> float:
    """The learning rate of a step.

    It rises linearly through the warm-up; then it stays (`constant`), falls along half a cosine to zero (`cosine`), or
    stays until validation no longer improves and is reduced then (`plateau`).

    Args:
        step: from 0 on.
        steps: of the whole stage, over 0.
        peak: the highest, over 0.
        schedule: how it goes on after the warm-up.
        warmup: share of the steps in which it rises, in [0, 1).
        reduced: what a plateau has brought it down to, as a factor.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, eq. 5, one cycle; Goyal et al. 2017,
    arXiv:1706.02677, section 2.2 (gradual warm-up).
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * reduced * (step + 1) / rising
    if schedule != "cosine":
        return peak * reduced
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
