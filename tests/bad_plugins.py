"""A package of somebody's that goes wrong in every way: `installed(folder)` writes it, with its entry points."""

from pathlib import Path

MODULE = """
import os, sys, time
from bench.grounding import PipelineCard, Prediction

class Whole:
    def __init__(self):
        self.card = PipelineCard("bad", "the whole image", supervision="none")
    def ground(self, batch):
        return [Prediction(q.id, (0, 0, s.image.shape[1], s.image.shape[0])) for s in batch for q in s.queries]

def good(context):
    return Whole()

def leaves(context):
    class Leaving(Whole):
        def ground(self, batch):
            sys.exit(0)
    return Leaving()

def factory_leaves(context):
    sys.exit(0)

def odd(context):
    class Odd(BaseException):
        def __str__(self):
            raise RuntimeError
    class Raising(Whole):
        def ground(self, batch):
            raise Odd
    return Raising()

def no_card(context):
    pipeline = Whole()
    pipeline.card = "bad"
    return pipeline

def card_raises(context):
    class Raising(Whole):
        card = property(lambda self: 1 / 0, lambda self, value: None)
    return Raising()

def card_of_numbers(context):
    pipeline = Whole()
    pipeline.card = PipelineCard("bad", 5, supervision="none")
    return pipeline

def note(context):
    class Noting(Whole):
        def ground(self, batch):
            return [Prediction(q.id, None, note=["x"]) for s in batch for q in s.queries]
    return Noting()

def half_note(context):
    class Noting(Whole):
        def ground(self, batch):
            return [Prediction(q.id, None, note="\\ud800") for s in batch for q in s.queries]
    return Noting()

def escapes(context):
    class Raising(Whole):
        def ground(self, batch):
            raise ValueError("\\x1b[31mred\\x1b]0;title\\x07")
    return Raising()

def fails(context):
    # Fails on the images that the options name, in the way that they name.
    how, bad = context.options.get("how"), context.options.get("on_images", [])
    class Failing(Whole):
        kept = []
        def ground(self, batch):
            print("not JSON")
            for scene in batch:
                if scene.id in bad or bad == ["all"]:
                    if how == "exit":
                        os._exit(0)
                    if how == "crash":
                        os.kill(os.getpid(), 11)
                    if how == "raise":
                        raise ValueError("odd")
                    while how == "hang":
                        time.sleep(1)
                    if how == "full":
                        raise MemoryError("no more")
                    while how == "leak":
                        self.kept.append(bytearray(os.urandom(1 << 20) * 64))
            return super().ground(batch)
    if how == "build":
        os._exit(7)
    return Failing()

class Data:
    name, title, terms, where, parts = "evil", "evil", "", "", (5,)
    def ready(self, part, resolved):
        return True
    load = ready

DATA = Data()
"""
IMPORTS = {  # a module each, which fails when it is imported
    "boom": "raise RuntimeError('boom')",
    "exits": "import sys; sys.exit(3)",
    "broken": "def (",
    "library": "raise OSError('libcudart.so.11: cannot open shared object file')",
    "odd": "class Odd(BaseException): ...\nraise Odd('odd')",
}
PIPELINES = [
    *("good", "leaves", "factory_leaves", "odd", "no_card", "card_raises", "card_of_numbers", "note", "half_note"),
    "escapes",
    "fails",
]


def installed(folder: Path) -> Path:
    """Write the package, as pip would have installed it; the folder belongs on sys.path."""
    folder.mkdir(exist_ok=True)
    (folder / "bad_package.py").write_text(MODULE)
    for name, text in IMPORTS.items():
        (folder / f"bad_import_{name}.py").write_text(text + "\n")
    info = folder / "bad_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-package\nVersion: 1.0\n")
    lines = ["[bench.pipelines]", *(f"bad-{name} = bad_package:{name}" for name in PIPELINES)]
    lines += [f"import-{name} = bad_import_{name}:build" for name in IMPORTS]
    lines += [
        "[bench.datasets]",
        "evil = bad_package:DATA",
        *(f"evil-{name} = bad_import_{name}:X" for name in IMPORTS),
    ]
    lines += ["[bench.label_sources]", *(f"import-{name} = bad_import_{name}:build" for name in IMPORTS)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
