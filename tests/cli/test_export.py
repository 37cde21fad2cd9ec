"""`bench export`: where it writes, what it refuses, and what it prints."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from bench import registry
from bench.errors import SettingsError
from bench.runs.files import write_atomically


@pytest.fixture
def contexts(monkeypatch):
    """Register an exporter as `any`, which writes the name of the weights; the contexts it was called with."""
    contexts = []

    def exporter(context, out):
        contexts.append(context)
        for key, wrong in (("paint", "red"), ("weights", "none")):
            if context.options.get(key) == wrong:
                raise SettingsError(f"bench.toml [pipelines.any]: unknown key {key!r}", [key])
        write_atomically(out, str(context.options.get("weights")).encode())
        return out

    known = registry._entries(registry.PIPELINES)
    entry = SimpleNamespace(
        name="any", value="any:ANY", attr="ANY", dist=None, load=lambda: registry.Method("any", export="any:exporter")
    )
    monkeypatch.setattr(registry, "_entries", lambda group: {**known, "any": entry})
    monkeypatch.setattr(
        registry,
        "EntryPoint",
        lambda name, path, group: SimpleNamespace(name=name, value=path, dist=None, load=lambda: exporter),
    )
    return contexts


def test_it_writes_the_weights_of_the_flags_or_of_the_data_set(bench, tmp_path, contexts):
    weights, out = tmp_path / "mine.safetensors", tmp_path / "new" / "official.pth"
    weights.touch()
    _, printed, _ = bench("export", "-p", "any", "--weights", weights, "--official", out, "--json")
    data = str(weights).encode()
    record = {"pipeline": "any", "path": str(out), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert json.loads(printed) == record and out.read_bytes() == data
    assert (contexts[0].device, contexts[0].dataset, contexts[0].name) == ("cpu", "file", "any")
    (tmp_path / "bench.toml").write_text("[pipelines.any]\nweights = 'all'\non.shapes.weights = 'small'\n")
    _, printed, _ = bench("export", "-p", "any", "--official", "o.pth", "--on", "shapes")
    assert (tmp_path / "o.pth").read_text() == "small" and "o.pth: 0.0 MB" in printed


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), [
    (("--official", "there.pth"), "--force replaces it"),
    (("--official", "."), "is a folder"),
    (("--official", "there.pth/below.pth"), "folder is needed"),
    (("--official", "o.pth", "--weights", "none"), "--weights: any takes none"),
    (("--official", "o.pth", "--set", "paint=red"), "unknown key 'paint'"),
    (("--official", "o.pth", "-p", "centre-box"), "official format is called 'centre-box'; known: any, clipvg"),
])  # fmt: skip
def test_what_is_refused_writes_nothing(bench, tmp_path, contexts, words, message):
    (tmp_path / "there.pth").write_text("precious")
    code, _, err = bench("export", "-p", "any", *words)
    assert code == 2 and message in err
    assert (tmp_path / "there.pth").read_text() == "precious" and not (tmp_path / "o.pth").exists()
    assert bench("export", "-p", "any", "--official", "there.pth", "--force")[0] == 0
    assert (tmp_path / "there.pth").read_text() == "None"
