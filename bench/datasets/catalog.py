"""The data sets people hold files of: their parts, the counts their authors published, and where to get them.

Counts are from the TFDS table (references, images) and MAttNet's and OneRef's lists (sentences); None where nobody
published one, or two sources disagree. `refcocog` is the UMD split, which parts by image; `refcocog-google` parts by
object: an image can be in train and in val.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bench.datasets.images import Images
from bench.datasets.prepared import Header, images_of, index_path, read_header, read_index
from bench.datasets.split import Counts, Part, Split
from bench.errors import DataError
from bench.settings import Resolved


class Mirror(NamedTuple):
    """Where a data set lies on the hub: repository, prefix of its parts' names, parts, a commit known to be whole."""

    repo: str
    prefix: str
    parts: tuple[str, ...]
    revision: str | None


# The last commit of refcoco-benchmark (30 October 2023). Of refclef-benchmark's only the short form, fd0fa8d, is known.
REFCOCO_COMMIT = "2f2f892835bbf44b4db81f1c4ad6d46a3e9e4359"
MIRRORS: dict[str, Mirror] = {
    "refcoco": Mirror("jxu124/refcoco-benchmark", "refcoco_unc", ("val", "testA", "testB"), REFCOCO_COMMIT),
    "refcoco+": Mirror("jxu124/refcoco-benchmark", "refcoco_plus_unc", ("val", "testA", "testB"), REFCOCO_COMMIT),
    "refcocog": Mirror("jxu124/refcoco-benchmark", "refcocog_umd", ("val", "test"), REFCOCO_COMMIT),
    "refcocog-google": Mirror("jxu124/refcoco-benchmark", "refcocog_google", ("val",), REFCOCO_COMMIT),
    "refcoco-google": Mirror("jxu124/refcoco-benchmark", "refcoco_google", ("val", "test"), REFCOCO_COMMIT),
    "referit": Mirror("jxu124/refclef-benchmark", "refclef_berkeley", ("val", "test"), None),
    "referit-unc": Mirror("jxu124/refclef-benchmark", "refclef_unc", ("val", "testA", "testB", "testC"), None),
}

COCO_TERMS = "images: Flickr users', COCO's terms of use (mostly non-commercial); expressions: no licence stated"
REFER_FILES = (
    "{name}.zip of the refer API (its host is gone; web.archive.org keeps bvisionweb1.cs.unc.edu/licheng/referit/data/"
    "{name}.zip), or the index lists of TransVG/CLIP-VG ({stem}_<part>.pth)"
)
COCO_IMAGES = (
    "train2014.zip from cocodataset.org (13 GB; train2017.zip holds the same images), no need to unpack it; "
    "for all the COCO sets at once: [data.images] coco = PATH in bench.toml"
)


@dataclass(frozen=True)
class Catalogued:
    """A known data set, prepared from files that the user holds; satisfies the Dataset protocol.

    `album` is the key of [data.images] that data sets with the same images share, `aliases` are other names of it
    in split names, `refer` is the folder and the splitBy of its refer files. Its index lists are called after `stem`
    and have `list_columns` with boxes as `list_boxes` says. `protocols` are the ways to take a phrase with several
    boxes, where it has such phrases; the lists take the first. `hub` is the mirror that has its images too. `several`
    says that an expression may mean nothing or several objects, `layout` how its own files are laid out
    (readers/expression_rows.py).
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    terms: str
    annotations: str
    images: str
    stem: str = ""
    album: str = ""
    aliases: tuple[str, ...] = ()
    refer: tuple[str, str] | None = None
    hub: Mirror | None = None
    list_boxes: Literal["xyxy", "xywh"] = "xywh"
    list_columns: Literal[3, 5] = 5
    protocols: tuple[str, ...] = ()
    several: bool = False
    layout: str = ""

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of its parts."""
        return tuple(part.name for part in self.parts)

    @property
    def where(self) -> str:
        """Where annotations and images come from, and the command that prepares them."""
        lines = [f"annotations: {self.annotations}", f"images: {self.images}"]
        if self.hub:
            revision = "" if self.hub.revision else " --revision COMMIT"
            lines.append(
                f"or both from the hub, for {', '.join(self.hub.parts)}: "
                f"bench data prepare {self.name} --annotations {self.hub.repo}{revision}"
            )
        lines.append(f"then: bench data prepare {self.name} --annotations PATH --images PATH")
        return "\n".join(lines)

    def part(self, name: str) -> Part:
        """Return the part of that name. Raises DataError with the parts there are."""
        for part in self.parts:
            if part.name == name:
                return part
        raise DataError(f"{self.name} has no part {name!r}; it has {', '.join(self.part_names)}")

    def ready(self, part: str, resolved: Resolved) -> bool:
        """Whether the part has been prepared."""
        return index_path(resolved.home, self.name, part).is_file()

    def header(self, part: str, resolved: Resolved) -> Header:
        """Return the header of the prepared index. Raises DataError when it is broken or absent."""
        return read_header(self._index(part, resolved))

    def load(self, part: str, resolved: Resolved) -> Split:
        """Load the split from the prepared index. Raises DataError, naming the command to run, when there is none."""
        path = self._index(part, resolved)
        header, scenes = read_index(path)
        if (header.dataset, header.part) != (self.name, part):
            raise DataError(f"{path}: it holds {header.split}; prepare {self.name} again")
        return Split(
            name=f"{self.name}-{part}",
            title=f"{self.title} {part}",
            scenes=scenes,
            images=self.images_in(resolved),
            terms=self.terms,
            partial=header.partial,
            known_fingerprint=header.fingerprint,
            several=self.several,
        )

    def images_in(self, resolved: Resolved) -> Images:
        """Return the source of its images; each load raises ImageError where no place with images is known."""
        return images_of(resolved, self.name, self.album)

    def _index(self, part: str, resolved: Resolved) -> Path:
        path = index_path(resolved.home, self.name, self.part(part).name)
        if not path.is_file():
            raise DataError(f"{self.name}-{part} is not prepared (no {path})\n{self.where}")
        return path


def mismatches(part: Part, counts: Counts) -> list[str]:
    """List how counts differ from the published ones: "expressions: 10,834 expected, 10,833 counted".

    A count is compared where it was published and the source knows it (index lists know no references).
    """
    return [
        f"{kind}: {expected:,} expected, {number:,} counted"
        for kind, expected, number in compared(part, counts)
        if number not in (expected, part.listed if kind == "images" else expected)
    ]


def compared(part: Part, counts: Counts) -> list[tuple[str, int, int]]:
    """List (kind, published, counted) of the counts that both have."""
    pairs = ((kind, getattr(part, kind), getattr(counts, kind)) for kind in ("expressions", "refs", "images"))
    return [(kind, expected, number) for kind, expected, number in pairs if None not in (expected, number)]


def _coco(name: str, title: str, split_by: str, stem: str, *parts: Part, aliases: tuple[str, ...] = ()) -> Catalogued:
    """Make a data set of the refer API about COCO's images; `stem` is what its index lists are called by."""
    refer, texts = name.removesuffix("-google"), (COCO_TERMS, REFER_FILES, COCO_IMAGES)
    terms, annotations, images = (text.format(name=refer, stem=stem) for text in texts)
    files = (stem, "coco", aliases, (refer, split_by), MIRRORS[name])
    return Catalogued(name, title, parts, terms, annotations, images, *files)


refcoco = _coco(
    *("refcoco", "RefCOCO (UNC)", "unc", "unc"),
    Part("train", 120_624, 42_404, 16_994),
    Part("val", 10_834, 3_811, 1_500),
    Part("testA", 5_657, 1_975, 750),
    Part("testB", 5_095, 1_810, 750),
    aliases=("refcoco-unc",),
)

refcoco_plus = _coco(
    *("refcoco+", "RefCOCO+ (UNC)", "unc", "unc+"),
    Part("train", 120_191, 42_278, 16_992),
    Part("val", 10_758, 3_805, 1_500),
    Part("testA", 5_726, 1_975, 750),
    Part("testB", 4_889, 1_798, 750),
    aliases=("refcoco+-unc", "refcocoplus"),
)

refcocog = _coco(
    *("refcocog", "RefCOCOg (UMD)", "umd", "gref_umd"),
    Part("train", 80_512, 42_226, 21_899),
    Part("val", 4_896, 2_573, 1_300),
    Part("test", 9_602, 5_023, 2_600),
    aliases=("refcocog-umd",),
)

refcocog_google = _coco(
    *("refcocog-google", "RefCOCOg (Google; split by object, so train and val share images)", "google", "gref"),
    Part("train", 85_474, 44_822, 24_698),
    Part("val", 9_536, 5_000, 4_650),
)

referit = Catalogued(
    name="referit",
    title="ReferIt (RefClef, Berkeley)",
    parts=(Part("train", 54_127), Part("val", 5_842, None, 1_000), Part("test", 60_103)),
    terms="images: SAIAPR TC-12, a part of IAPR TC-12; expressions: no licence stated",
    annotations=REFER_FILES.format(name="refclef", stem="referit"),
    images="saiapr_tc-12.zip (refer's README links it); folder or zip, as it comes",
    aliases=("refclef",),
    refer=("refclef", "berkeley"),
    stem="referit",
    hub=MIRRORS["referit"],
    list_boxes="xyxy",
)

# Image 4797050581 of the authors' test.txt has no phrase with a box, so 999 of its 1,000 images have an expression.
flickr30k = Catalogued(
    name="flickr30k",
    title="Flickr30k Entities",
    parts=(Part("train", 427_193), Part("val", 14_433, None, 1_000), Part("test", 14_481, None, 999, 1_000)),
    terms="images: request form of Flickr30k, non-commercial research and education only; annotations: on GitHub",
    annotations="github.com/BryanPlummer/flickr30k_entities (annotations.zip and train/val/test.txt), "
    "or the index lists flickr_<part>.pth",
    images="flickr30k-images, by the form at shannon.cs.illinois.edu/DenotationGraph",
    aliases=("flickr",),
    stem="flickr",
    list_boxes="xyxy",
    list_columns=3,
    protocols=("merged", "any-box"),
)

# Nothing, one or several objects. Counts of gRefCOCO's and RefDrone's other parts are published nowhere we know of.
grefcoco = Catalogued(
    *("grefcoco", "gRefCOCO", tuple(map(Part, ("train", "val", "testA", "testB"))), COCO_TERMS),
    annotations="github.com/henghuiding/gRefCOCO: grefs(unc).json and instances.json, or MDETR's JSON of it",
    images=COCO_IMAGES,
    album="coco",
    several=True,
)

refdrone = Catalogued(
    *("refdrone", "RefDrone", (Part("train"), Part("val"), Part("test", 3_432, None, 1_595)), "CC BY 4.0"),
    annotations="github.com/sunzc-sunny/refdrone: RefDrone_<part>_mdetr.json",
    images="VisDrone2019-DET, as RefDrone's page says",
    several=True,
)

refcocos = Catalogued(
    *("refcocos", "refcocos (hard expressions)", (Part("test", 506, None, 460),), "annotations MIT; COCO's images"),
    annotations="github.com/kuoyang1999/refcocos-annotator: results/refcocos_test.json",
    images="val2017.zip from cocodataset.org",
    album="coco-val2017",
    several=True,
    layout="vlm-r1",
)

groundingme = Catalogued(
    *("groundingme", "GroundingME", (Part("test", 1_005),), "research, under the terms of SA-1B and HR-Bench"),
    annotations="the hub's lirang04/GroundingME: its parquet files",
    images="in the parquet files",
    several=True,
    layout="groundingme",
)

humanref = Catalogued(
    *("humanref", "HumanRef", (Part("test", 6_000),), "see its card on the hub"),
    annotations="the hub's IDEA-Research/HumanRef: annotations.jsonl",
    images="images/ of the same repository",
    several=True,
    layout="humanref",
)

ref_l4 = Catalogued(
    *("ref-l4", "Ref-L4", (Part("val", 7_231), Part("test", 38_110)), "CC BY-NC 4.0"),
    annotations="the hub's JierunChen/Ref-L4: ref-l4-<part>.parquet",
    images="images.tar.gz of the same repository, unpacked",
    layout="ref-l4",
)

CATALOGUE = (
    *(refcoco, refcoco_plus, refcocog, refcocog_google, referit, flickr30k),
    *(grefcoco, refdrone, refcocos, groundingme, humanref, ref_l4),
)

# What files are mistaken for: every published part, the Google split of RefCOCO, and val sets of a hub mirror
# (lmms-lab) that put the UNC or UMD and the Google split into one.
LOOKALIKES: tuple[tuple[str, Part], ...] = (
    *((f"{dataset.name}-{part.name}", part) for dataset in CATALOGUE for part in dataset.parts),
    ("RefCOCO's Google split, train", Part("train", None, 40_000, 19_213)),
    ("RefCOCO's Google split, val", Part("val", None, 5_000, 4_559)),
    ("RefCOCO's Google split, test", Part("test", None, 5_000, 4_527)),
    ("refcoco-val and the Google split's val in one", Part("val", None, 8_811)),
    ("refcocog-val and refcocog-google-val in one", Part("val", None, 7_573)),
)
