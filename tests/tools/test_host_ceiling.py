"""The tool that times the host alone: the harness runs as it does with a network, on texts that are all different."""

import clipvg.pipeline
from bench.evaluation import answering
from bench.settings import RunSettings
from tools.benchmarks import host_ceiling


def test_the_harness_serves_a_network_that_costs_nothing(monkeypatch):
    for name in ("covered", "normalised"):
        monkeypatch.setattr(clipvg.pipeline, name, getattr(clipvg.pipeline, name))  # the tool sets them
    pipeline, scenes = host_ceiling.stubbed(), host_ceiling.made(5)
    batches = list(answering.answers(pipeline, scenes, host_ceiling.Decoded(), RunSettings(batch_size=4)))
    rows = [row for _, some, _ in batches for row in some]
    assert [len(row.answers) for row in rows] == [host_ceiling.EXPRESSIONS] * 5
    # The middle half of a square around a wide image: more of the height than the image has.
    assert {answer.box for row in rows for answer in row.answers} == {(160.0, 80.0, 480.0, 400.0)}
    assert min(host_ceiling.run(pipeline, scenes, RunSettings())) > 0


def test_no_text_comes_twice():
    texts = [e.text for scene in host_ceiling.made(480) for e in scene.expressions]
    assert len(set(texts)) == len(texts) == 3360
