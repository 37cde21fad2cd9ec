"""The words that noun chunks begin and end at, and the nouns whose plural no rule makes, in the English of captions."""

from __future__ import annotations

from pipelines.two_stage.language.lexicon import words as _words

ARTICLES = _words(
    "a an the this that these those some several many few his her their its my your our each every another other one "
    "two three four five six seven eight nine ten both all any no"
)
PREPOSITIONS = _words(
    "of in on at with by for from to into onto near behind beside besides between among under underneath beneath below "
    "above over across along around through during against inside outside off up down out next atop before "
    "after beyond past toward towards upon within without as while about like than amid amongst alongside"
)
# Where something is, and by itself no thing: "on the left", "in front of", "on top of".
PLACES = _words("left right front back top bottom side middle center centre corner edge end background foreground")
# What stands for no thing that could be found.
PRONOUNS = _words("there it he she they them him i we you us who which what someone something here")
JOINING = _words("and or but nor while when where because so if then which who whose whom as not very just also")
AUXILIARIES = _words(
    "is are was were be been being am has have had having does do did can could will would may might must should"
)
# Finite verbs and participles of captions that are hardly ever nouns; those in -ing and -ed go by their ending.
VERBS = _words(
    "sits sit sat stands stand stood holds hold held rides ride rode walks runs plays lies lie lay lays laid eats eat "
    "looks look wears wear worn jumps flies flew drives drove driven poses rests waits catches throws hits carries "
    "carry pulls talks smiles leans swims skates surfs gets takes took taken makes made prepares prepare reaches "
    "grazes graze hangs hung shows shown seen goes went drinks cuts uses feeds kicks performs moves travels built kept "
    "enjoys enjoy contains"
)
# Nouns in -ing, and words in -ing that stand before one ("dining table").
ING_NOUNS = _words(
    "building ceiling wing ring string king clothing painting railing awning swing thing evening morning pudding "
    "wedding sling lightning icing frosting stuffing sibling earring duckling seasoning topping landing crossing "
    "opening spring siding paneling molding lighting covering writing drawing carving bedding fencing flooring wiring "
    "parking dining swimming cutting frying washing shopping living cooking mixing baking rocking serving sewing "
    "fishing sailing racing bowling boxing vending training loading"
)
# "a group of people": what is meant comes after.
PARTITIVES = _words(
    "group bunch pair couple number lot lots variety row rows line set pile stack herd flock crowd pack team piece "
    "pieces slice slices bit kind type sort array collection assortment cluster dozen picture photo photograph image "
    "view shot close-up scene display"
)
COLOURS = _words("black white red orange yellow green blue purple pink brown gray grey tan beige gold silver")

IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "oxen": "ox", "dice": "die", "knives": "knife", "wives": "wife",
    "lives": "life", "wolves": "wolf", "shelves": "shelf", "leaves": "leaf", "loaves": "loaf", "calves": "calf",
    "halves": "half", "scarves": "scarf", "hooves": "hoof", "elves": "elf", "thieves": "thief", "buses": "bus",
    "gases": "gas", "movies": "movie", "cookies": "cookie", "ties": "tie", "pies": "pie", "zombies": "zombie",
    "brownies": "brownie", "smoothies": "smoothie", "selfies": "selfie", "hoodies": "hoodie", "axes": "axe",
    "shoes": "shoe", "horseshoes": "horseshoe", "toes": "toe", "potatoes": "potato", "tomatoes": "tomato",
    "canoes": "canoe", "houses": "house",
    "horses": "horse", "noses": "nose", "roses": "rose", "vases": "vase", "cases": "case", "suitcases": "suitcase",
    "briefcases": "briefcase", "bases": "base", "hoses": "hose", "faces": "face", "mooses": "moose",
    "caches": "cache", "headaches": "headache",
}  # fmt: skip
# They look like plurals and are none, or have no other form.
UNCHANGED = _words(
    "glass grass bus gas dress mattress cross boss class pass lens cactus octopus tennis skis pants jeans shorts "
    "scissors binoculars pajamas headphones series species sheep deer fish this his is was has as its us yes plus "
    "cutlass bass canvas christmas atlas asparagus hibiscus crocus papyrus campus chess swiss across"
)
