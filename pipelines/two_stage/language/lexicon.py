"""The words that compare: the direction, relation or number that a word of a referring expression means.

Relations hold between two boxes, superlatives single one box out of many. Both follow ReCLIP (Subramanian et al. 2022,
3.2), which takes depth from the height in the image: what is behind appears higher, what is in front lower, and what is
closest biggest. `near`, `far`, `middle` and counting ("second from the left") are ours.
"""

from __future__ import annotations

import re

# Words of a direction, as an adjective or after a preposition; `key` of relations.py -> words.
HORIZONTAL = {"left": "leftmost|left ?most|left ?hand|left|lft", "right": "rightmost|right ?most|right ?hand|right|rt"}
VERTICAL = {
    "top": "topmost|uppermost|top ?most|upper ?most|highest|upper|top",
    "bottom": "bottommost|lowermost|bottom ?most|lowest|lower|bottom",
}
# Depth: front and back by their height in the image.
DEPTH = {"bottom": "front ?most|foreground|front", "top": "rear ?most|background|rear|back"}
MIDDLE = {"middle": "middle ?most|middle|center|centre|central|mid"}
SIZES = {
    "big": "biggest|largest|bigger|larger|big|large|closest|nearest|closer",
    "small": "smallest|tiniest|littlest|smaller|tinier|small|(?:furthest|farthest|further|farther)(?: away)?",
    "tall": "tallest|taller",
    "short": "shortest|shorter",
}
# The superlatives that count: "second largest", "third tallest".
COUNTED = "biggest|largest|smallest|tiniest|littlest|tallest|shortest|closest|nearest|furthest|farthest"

# Relation -> its words; what follows is the other object.
RELATIONS = {
    "left": r"(?:(?:on|to|at|in|from) )?(?:the )?(?:far )?left(?: ?hand)?(?: side)? (?:of|from)|west of",
    "right": r"(?:(?:on|to|at|in|from) )?(?:the )?(?:far )?right(?: ?hand)?(?: side)? (?:of|from)|east of",
    "above": r"above|over|on (?:the )?top of|atop(?: of)?|higher (?:up )?than|behind|in (?:the )?back of|north of",
    "below": r"below|underneath|under|beneath|lower (?:down )?than|in (?:the )?front of|ahead of|south of",
    "bigger": r"(?:bigger|larger) than",
    "smaller": r"(?:smaller|tinier) than",
    "inside": r"inside(?: of)?|within|contained (?:in|by)",
    "near": r"next to|besides?|(?:nearest|closest|closer|close|adjacent)(?: to)|nearest|near|alongside(?: of)?",
    "far": r"(?:furthest|farthest|further|farther|far)(?: away)? from",
}
# A direction without another object ("left of the image") is the superlative of it.
TOWARDS = {"left": "left", "right": "right", "above": "top", "below": "bottom", "bigger": "big", "smaller": "small"}

ORDINALS = {
    word: rank
    for rank, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th", "seventh 7th", "eighth 8th")
    )
    for word in words.split()
}

# The image itself, and who looks at it: nothing that a box could be.
FRAME = "(?:pictures?|images?|imgs?|photos?|photographs?|pics?|frame|screen|scene|shot|view|page)"
VIEWER = "(?:camera(?: ?man| ?person)?|viewer|us|me|you|lens|photographer)"
PLACE = "(?:sides?|corner|part|half|portion|end|edge|section|area|region)"


def words(text: str) -> frozenset[str]:
    """Split a text into its words."""
    return frozenset(text.split())


PRONOUNS = words("him her it them himself herself itself themselves each")
# Words that stand for any object, so that CLIP does not encode them (ReCLIP's null words and a few more).
NULL = PRONOUNS | words(
    "part image side picture half region section photo pic corner edge area portion end one ones thing object there "
    "here us me you other others two both"
)
ARTICLES = words("a an the this that these those")
# Left over at the edge of a phrase when what follows them is taken away.
LOOSE = ARTICLES | words(
    "of to on in at and or is are was were be being which who whom located positioned placed situated right just "
    "directly immediately slightly immediate bit from by with very most far way all its it's"
)

POSSESSIVES = words("his her their your my its our")
# "facing left" is where someone looks, "blue top" what they wear, "bent over" how they stand.
TURNS = words("facing faces looking looks turned turning pointing pointed leaning heading headed going moving")
COLOURS = words("red orange yellow green blue purple pink brown black white gray grey tan teal maroon")
GARMENTS = COLOURS | words("tank crop halter striped checkered plaid floral tube sleeveless table counter")
NOT_ABOVE = words("bent bending all leaning hunched flipped turned knocked looking hanging falling thrown")
# What may follow "on the left" when it locates the head; any other word is a noun that "left" belongs to.
AFTER = (
    r"with|in|on|at|of|by|and|or|who|whose|that|which|is|are|was|has|wearing|\w+ing|near|next|behind|above|below|under"
    r"|over|beside|but|not|from|to|left|right|top|bottom|upper|lower|front|back|middle|far|there|w|closest|nearest|only"
)

IMPERATIVES = re.compile(
    r"^(?:please )?(?:find|look for|locate|show(?: me)?|point (?:to|at)|click(?: on)?|select|pick|choose|where is"
    r"|it is|it's|this is|that is|i see|there is)\b (?=\w)"
)
