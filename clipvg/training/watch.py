"""Watches a training for the way CLIP-VG fails: the loss lies flat and every answer is the same box in the middle.

Users of the official code on one GPU see just that (spec clipvg.md 8): its learning rate with a fifth of its batch.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from clipvg.training.recipe import ClipVGRecipe, Pace

SAME = 0.15  # boxes that spread by less than this share of the targets' spread are all the same box
FLAT = 0.01  # a loss that has fallen by less than this share from one half of the window to the next lies flat


class Watch:
    """Looks back over `window` steps. `note` says what is wrong when it begins to be, and when it is over."""

    def __init__(self, recipe: ClipVGRecipe, pace: Pace) -> None:
        self.recipe, self.pace = recipe, pace
        self.losses: deque[float] = deque(maxlen=recipe.collapse_window)
        self.spreads: deque[float] = deque(maxlen=recipe.collapse_window)
        self.collapsed = False

    def note(self, step: int, loss: float, spread: float) -> str:
        """After a step: its loss, and the spread of its boxes as a share of its targets' -> what is to be said."""
        self.losses.append(loss)
        self.spreads.append(spread)
        if len(self.losses) < self.recipe.collapse_window:
            return ""
        half = len(self.losses) // 2
        losses = list(self.losses)
        before, now = float(np.mean(losses[:half])), float(np.mean(losses[half:]))
        same, flat = float(np.mean(self.spreads)) < SAME, now > (1 - FLAT) * before
        was, self.collapsed = self.collapsed, same and flat if not self.collapsed else same
        if self.collapsed and not was:
            return self._warning(step, before, now)
        if was and not self.collapsed:
            return f"step {step:,}: the boxes differ again ({np.mean(self.spreads):.2f} times as far as the targets)"
        return ""

    def _warning(self, step: int, before: float, now: float) -> str:
        recipe, advice = self.recipe, []
        if self.pace.effective < recipe.reference_batch and recipe.adapt == "off":
            advice.append('adapt = "accumulate" or "scale": the learning rate is meant for more rows')
        if not recipe.warm_up:
            advice.append("warm_up = 500")
        if not recipe.clip_norm:
            advice.append("clip_norm = 0.1")
        advice.append(f"learning_rate = {recipe.learning_rate / 4:.1g}")
        if recipe.auxiliary == "off":
            advice.append('auxiliary = "patches", which tells [REG] where to look')
        return (
            f"step {step:,}: no progress. The loss went from {before:.3f} to {now:.3f} in {len(self.losses)} steps, "
            f"and all boxes are nearly the same one (they spread {np.mean(self.spreads):.2f} times as far as the "
            f"targets). {self.pace.said()}. Worth trying: {'; '.join(advice)}"
        )
