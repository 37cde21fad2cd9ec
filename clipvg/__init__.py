"""CLIP-VG (Xiao et al., IEEE TMM 2023): the network, its training, pseudo-labels and the self-paced curriculum."""

from bench.registry import Method

CLIPVG = Method("clipvg.pipeline:clipvg", tasks="clipvg.task:tasks", export="clipvg.pipeline:export_official")
