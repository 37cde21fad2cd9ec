"""Detects the way box regression fails: the loss lies flat and every prediction is the same box in the middle.

Users of the official CLIP-VG code on one GPU see just that: its learning rate with a fifth of its batch.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from bench.training.config import BatchPlan, TrainConfig

SAME = 0.15  # boxes that spread by less than this share of the targets' spread are all the same box
FLAT = 0.01  # a loss that falls by less than this share from one half of the window to the next lies flat


class CollapseDetector:
    """Looks back over `collapse_window` steps."""

    def __init__(self, config: TrainConfig, plan: BatchPlan) -> None:
        self.config, self.plan = config, plan
        self.losses: deque[float] = deque(maxlen=config.collapse_window)
        self.spreads: deque[float] = deque(maxlen=config.collapse_window)
        self.collapsed = False

    def note(self, step: int, loss: float, spread: float) -> str:
        """Return a warning when a collapse starts and when it is over, else nothing.

        `spread` is that of the step's boxes as a share of its targets'.
        """
        self.losses.append(loss)
        self.spreads.append(spread)
        if len(self.losses) < self.config.collapse_window:
            return ""
        # Compare the mean loss of the window's two halves, and the boxes of all of it.
        half, losses = len(self.losses) // 2, list(self.losses)
        before, now = float(np.mean(losses[:half])), float(np.mean(losses[half:]))
        same, flat = float(np.mean(self.spreads)) < SAME, now > (1 - FLAT) * before
        was, self.collapsed = self.collapsed, same and flat if not self.collapsed else same
        if self.collapsed and not was:
            return self._warning(step, before, now)
        if was and not self.collapsed:
            return f"step {step:,}: the boxes differ again ({np.mean(self.spreads):.2f} times as far as the targets)"
        return ""

    def _warning(self, step: int, before: float, now: float) -> str:
        config, advice = self.config, []
        if self.plan.effective < config.reference_batch and config.adapt == "off":
            advice.append('adapt = "accumulate" or "scale": the learning rate is meant for more rows')
        if not config.warm_up:
            advice.append("warm_up = 500")
        if not config.clip_norm:
            advice.append("clip_norm = 0.1")
        advice.append(f"learning_rate = {config.learning_rate / 4:.1g}")
        return (
            f"step {step:,}: no progress. The loss went from {before:.3f} to {now:.3f} in {len(self.losses)} steps, "
            f"and all boxes are nearly the same one (they spread {np.mean(self.spreads):.2f} times as far as the "
            f"targets). {self.plan}. Worth trying: {'; '.join(advice)}"
        )
