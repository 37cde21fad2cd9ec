"""A small HiVG in exactly the official form, its bridges in the first block as B/16's or in a later one as L/14's."""

import plain_hivg

from pipelines.hivg import network

COMMON = {
    "vision": 48, "vision_heads": 4, "text": 32, "text_heads": 4, "embed": 32, "hidden": 32, "heads": 4,
    "feedforward": 48, "layers": 2, "inner": 40,
}  # fmt: skip
FIRST = plain_hivg.Sizes(**COMMON, patch=16, image=64, depth=4, taps=(0, 3), bridges=(0, 3), text_depth=12, rank=4)
LATER = plain_hivg.Sizes(**COMMON, patch=8, image=32, depth=5, taps=(0, 2, 4), bridges=(1, 3), text_depth=12, rank=4)


def config_of(sizes):
    """The network's own sizes of a plain reference's."""
    return network.HiVGConfig(
        **COMMON, patch=sizes.patch, image_size=sizes.image, vision_layers=sizes.depth, text_layers=sizes.text_depth,
        taps=sizes.taps, bridges=sizes.bridges,
    )  # fmt: skip
