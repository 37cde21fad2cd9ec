"""Makes the small weights of the embedded data set `shapes`, which the packages ship.

    python -m tools.tiny_weights PART --out FOLDER       one of those below, or all

clip           tiny-clip          the CLIP of the two-stage pipelines, on crops                  25 min
detr ssd yolo  tiny-KIND          their detectors                                                35 to 45 min each
clipvg-clip    tiny-clipvg-clip   the CLIP under CLIP-VG, pre-trained on whole scenes            25 min
clipvg         tiny-clipvg        CLIP-VG, in two halves                                         60 min
transvg        tiny-transvg       TransVG, from the shipped tiny-mdetr (transvg.py)             12 min
dynamic-mdetr  tiny-dynamic-mdetr Dynamic MDETR, from the shipped tiny-transvg (dynamic_mdetr.py)  30 min
hivg           tiny-hivg          HiVG, from the shipped tiny-clipvg (hivg.py)                     65 min
rl-refine      tiny-rl-refine     a policy on the boxes of the shipped tiny-clipvg                 6 min
diffusion      tiny-diffusion     a head over the shipped tiny-clipvg's tokens                    10 min
oneref         tiny-oneref        OneRef, its lower layers from the CLIP of tiny-clipvg (oneref.py)  150 min
mdetr          tiny-mdetr         MDETR (mdetr.py, mdetr.toml)                                   80 min

Times are of two CPU cores. A small network starts from a file with random weights (architectures.py) under
FOLDER/start; then the product's own trainer goes on from it, with shapes.toml for a config. `--set KEY=VALUE` changes
it. A stopped training is resumed by the same command. docs/experiments.md says what was tried on the way.

Nothing here is for photographs: it uses that a scene of `shapes` knows every object, its description and its box.
"""
