"""A command imports what it uses: no compiler, transformers or timm for a CLIP that has none of them."""

import json
import subprocess
import sys

import pytest

from bench.imports import lean

RUN = """
import json, sys
from bench.cli.main import app

try:
    app(sys.argv[1:], prog_name="bench")
except SystemExit as stop:
    assert not stop.code, stop.code
names = ("torch._dynamo", "torch._inductor", "transformers", "timm", "pandas", "matplotlib")
print("imported:" + json.dumps([name for name in names if name in sys.modules]))
"""


def imported(script, *arguments, folder):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("imported:")[2])


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["clipvg", "yolo-clip"])
def test_a_run_of_clip_imports_no_package_that_it_does_not_use(pipeline, tmp_path):
    arguments = ("run", "-p", pipeline, "-s", "shapes-val", "--limit", "2", "--device", "cpu")
    assert imported(RUN, *arguments, folder=tmp_path) == []


FROM_CLIP = """
import json, sys
import numpy, torch
from pipelines.two_stage.clip.encoder import empty_model, open_clip
from torchvision.ops import roi_align

assert open_clip.timm_model.timm is None and open_clip.hf_model.transformers is None
assert "torch._dynamo.utils" not in sys.modules and "transformers" not in sys.modules
boxes = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
assert roi_align(torch.ones(1, 2, 8, 8), boxes, 2).eq(1).all()
empty_model("ViT-B-32", device="meta")
assert open_clip.timm_model.timm is None
siglip = empty_model("ViT-B-16-SigLIP", device="meta")
assert type(siglip.visual.trunk).__module__.startswith("timm.")
from bench import imports
imports.complete(open_clip, "xlm-roberta-base-ViT-B-32")
assert open_clip.hf_model.transformers.__name__ == "transformers"
supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
print("imported:" + json.dumps(supported))
assert "torch._dynamo" in sys.modules
"""


@pytest.mark.slow
def test_what_a_model_of_open_clip_needs_comes_when_it_is_opened(tmp_path):
    assert imported(FROM_CLIP, folder=tmp_path) in (True, False)


def test_a_stand_in_imports_the_module_for_any_other_name(monkeypatch):
    monkeypatch.setattr("bench.imports.COMPILER", "colorsys")
    monkeypatch.setattr("bench.imports.FUNCTION", "hls_to_rgb")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with lean():
        from colorsys import hls_to_rgb

        stand_in = sys.modules["colorsys"]
        assert not hasattr(stand_in, "__file__")
        from colorsys import rgb_to_hls

        assert sys.modules["colorsys"] is not stand_in
    assert hls_to_rgb.__name__ == "later"
    assert rgb_to_hls.__module__ == "colorsys" and "colorsys" in sys.modules
    with lean():
        assert sys.modules["colorsys"].rgb_to_hls is rgb_to_hls  # what is there stays
