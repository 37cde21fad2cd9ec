"""Training data in one word: what annotation the weights of a row learned grounding from.

none        nothing was trained
zero-shot   boxes, labels, captions: no expression of this data set
pseudo      expressions and boxes that a machine made about the data set's pictures
mixed       annotated expressions of several data sets, this one's among them
full        annotated boxes or expressions of the data set's own train split
unknown     nothing that is known settles it

The card's own word (`supervision`) wins. Where it says none, the word is read off `trained_on`: "nothing";
pseudo-labels named; the data set's train split named ("shapes-train", "the train split of the data set"); else
zero-shot where every part is known to hold no expression of the data set. What is not in SOURCES is unknown rather
than assumed harmless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WORDS = ("none", "zero-shot", "pseudo", "mixed", "full", "unknown")

# What it is called in `trained_on` -> the data sets whose expressions it holds.
SOURCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"coco( train20(14|17))?( without .*)?", ()),
    (r"mattnet's mask r-cnn", ()),
    (r"imagenet|objects365|openimages|v3det|sa-1b|odinw-35|lvis( base categories)?", ()),
    (r"webimagetext|laion\S*|datacomp|dfn|webli|cap4m|fld-5b|web pictures|detection data", ()),
    (r"goldg", ("flickr30k",)),  # Flickr30k Entities, Visual Genome captions and GQA; COCO's pictures left out
)


def supervision(card: Mapping[str, Any], split: str) -> str:
    """One of WORDS for a run's card on a split. Cards are data: any value may stand in one."""
    said = card.get("supervision")
    if said in WORDS:
        return str(said)
    text = str(card.get("trained_on") or "").lower()
    dataset = split.rpartition("-")[0]
    if text == "nothing":
        return "none"
    if "pseudo" in text:
        return "pseudo"
    if "the train split of the data set" in text or re.search(rf"(?<![\w+-]){re.escape(dataset)}-train\b", text):
        return "full"
    return _of_parts(text, dataset)


def _of_parts(text: str, dataset: str) -> str:
    """Zero-shot where every part is known and none holds the data set; mixed where one does; else unknown."""
    plain = re.sub(r"\([^()]*\)", "", text)
    parts = [re.sub(r"^[^:;,]*:", "", part).strip() for part in re.split(r"[;,]", plain)]
    held = [_holds(part) for part in parts if part]
    if not held or any(sets is None for sets in held):
        return "unknown"
    return "mixed" if any(sets and dataset in sets for sets in held) else "zero-shot"


def _holds(part: str) -> tuple[str, ...] | None:
    return next((sets for pattern, sets in SOURCES if re.fullmatch(pattern, part)), None)
