"""Pseudo-labels: expressions made from the detections and captions of an image (CLIP-VG, section III-C).

detections.py    named boxes of each image  ->  attributes.py  their looks: what every source starts with
template.py      Pseudo-Q: noun, attribute and place in fixed patterns (words.toml), places from arrangement.py
relation.py      subject, predicate and object, of a scene graph or of detections and their geometry
caption.py       a caption of the image, for the boxes of the objects that it names
"""
