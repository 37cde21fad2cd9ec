"""Flickr30k Entities, written on the spot in its authors' layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.datasets.fingerprint import fingerprint
from bench.datasets.readers.flickr30k import read_annotation, read_caption, read_entities
from bench.errors import DataError

XML = """<annotation>
  <filename>36979.jpg</filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  {objects}
</annotation>
"""
PEOPLE = [("1", (53, 45, 110, 203)), ("1", (200, 40, 260, 210)), ("2", (10, 20, 30, 60))]
CAPTIONS = [
    "[/EN#1/people A group of friends] playing [/EN#2/other cards] and bluffing [/EN#0/notvisual each other] .",
    "[/EN#1/people Several men] at [/EN#4/scene a party] with [/EN#2/bodyparts/other  red cards ] [/EN#5/other a dog].",
    "They play .",
]


def boxed(chain: str, box: tuple[float, ...]) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{chain}</name><bndbox>{corners}</bndbox></object>"


def folder(at: Path, objects: str | None = None, captions: list[str] | None = None) -> Path:
    for name in ("Annotations", "Sentences"):
        (at / name).mkdir(exist_ok=True)
    if objects is None:
        flags = "<scene>1</scene><nobndbox>0</nobndbox>", "<scene>0</scene><nobndbox>1</nobndbox>"
        objects = "".join(boxed(*p) for p in PEOPLE)
        objects += "".join(f"<object><name>{n}</name>{flag}</object>" for n, flag in zip("45", flags, strict=True))
    (at / "Annotations/36979.xml").write_text(XML.format(objects=objects))
    (at / "Sentences/36979.txt").write_text("\n".join(captions or CAPTIONS) + "\n")
    (at / "val.txt").write_text("36979\n\n")
    return at


def test_one_expression_for_each_mention_of_a_chain_that_has_a_box(tmp_path):
    (scene,) = read_entities(folder(tmp_path), "val")
    assert (scene.id, scene.file, scene.width, scene.height) == ("36979", "36979.jpg", 500, 375)
    assert [(e.id, e.text, e.kind, e.ref_id) for e in scene.expressions] == [
        ("36979#0#0", "A group of friends", "people", "36979#1"),
        ("36979#0#1", "cards", "other", "36979#2"),
        ("36979#1#0", "Several men", "people", "36979#1"),
        ("36979#1#2", "red cards", "bodyparts", "36979#2"),
    ]
    captions = [e.caption for e in scene.expressions]
    assert captions[0].text == "A group of friends playing cards and bluffing each other ."
    assert captions[3].text == "Several men at a party with red cards a dog."
    assert [c.text[c.start : c.end] for c in captions] == [e.text for e in scene.expressions]


def test_the_two_protocols(tmp_path):
    (merged,) = read_entities(folder(tmp_path), "val", "merged")
    (anyone,) = read_entities(folder(tmp_path), "val", "any-box")
    assert merged.expressions[0].box == (53, 40, 260, 210) and merged.expressions[0].also == ()
    assert (anyone.expressions[0].box, anyone.expressions[0].also) == ((53, 45, 110, 203), ((200, 40, 260, 210),))
    assert merged.expressions[1] == anyone.expressions[1]  # a chain of one box
    assert fingerprint([merged]) != fingerprint([anyone])


def test_an_object_may_belong_to_several_chains(tmp_path):
    both = boxed("1", (1, 2, 3, 4)).replace("</name>", "</name><name>2</name>")
    _, _, chains = read_annotation(folder(tmp_path, both) / "Annotations/36979.xml")
    assert chains == {"1": [(1, 2, 3, 4)], "2": [(1, 2, 3, 4)]}


def test_phrases_end_at_the_bracket_that_ends_a_word():
    words, found = read_caption("[/EN#7/people/other a b]c man ] and [/EN#8/clothing hat], [here] .", "caption 0")
    assert words == "a b]c man and hat, [here] ."
    assert [phrase[:3] for phrase in found] == [("7", ("people", "other"), "a b]c man"), ("8", ("clothing",), "hat")]
    assert read_caption("nothing marked ( here ) .", "caption 0") == ("nothing marked ( here ) .", [])


@pytest.mark.parametrize("objects, captions, message", [
    (boxed("1", (5, 2, 3, 4)), None, r"36979\.xml: chain 1: .* width -2"),
    (boxed("1", ("five", 2, 5, 4)), None, r"chain 1: 'five' should be a number"),
    (boxed("1", (5, 2, 5, 4)).replace("<xmin>5</xmin>", ""), None, r"chain 1: None should be a number"),
    ("<object>", None, r"36979\.xml: not readable XML"),
    (None, ["[/EN#1/people a man and [/EN#2/other cards] ."], r"36979\.txt: caption 0: a phrase is not of"),
    (None, ["[/EN#1/people \u200b]"], "caption 0, phrase 0: the expression is empty"),
    (None, ["nothing here"], r"val\.txt: it holds no expressions"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, objects, captions, message):
    with pytest.raises(DataError, match=message):
        read_entities(folder(tmp_path, objects, captions), "val")


@pytest.mark.parametrize("start", [
    '<!DOCTYPE a [<!ENTITY x "aaaaaaaa"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>',
    '<!doctype a SYSTEM "file:///etc/passwd">',
    '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
])  # fmt: skip
def test_xml_that_declares_entities_is_not_read(tmp_path, start):
    file = folder(tmp_path) / "Annotations/36979.xml"
    file.write_text(start + file.read_text())
    with pytest.raises(DataError, match="declares a document type or entities"):
        read_entities(tmp_path, "val")
    file.write_bytes(file.read_text().encode("utf-16"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_entities(tmp_path, "val")


def test_files_that_are_missing_or_lead_elsewhere(tmp_path):
    with pytest.raises(DataError, match=r"test\.txt: no such file.*\(there are: val\)"):
        read_entities(folder(tmp_path), "test")
    (tmp_path / "val.txt").write_text("../36979\n")
    with pytest.raises(DataError, match="without folders"):
        read_entities(tmp_path, "val")
    (tmp_path / "val.txt").write_text("12\n")
    with pytest.raises(DataError, match=r"12\.xml: cannot be read"):
        read_entities(tmp_path, "val")
