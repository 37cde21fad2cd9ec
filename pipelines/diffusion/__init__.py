"""Diffusion of boxes over the frozen tokens of another network: many samples, one answer, and how far they agree."""
