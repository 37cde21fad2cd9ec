"""Pseudo-labels: expressions made up from what detectors, attributes and captions say of an image (spec clipvg.md 3).

detections.py    what is in each image  ->  attributes.py  and how it looks: what every source begins with
template.py      Pseudo-Q: noun, attribute and place in fixed patterns (words.toml), places from arrangement.py
relation.py      subject, predicate and object, of a scene graph or of detections and their geometry
caption.py       a caption of the image, for the boxes of the things that it names
"""
