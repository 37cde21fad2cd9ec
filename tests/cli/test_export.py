"""`bench export`: where it writes, what it refuses, and what it says."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import registry
from bench.cli.main import app
from bench.errors import RunError, SettingsError, UnknownName, UsageError
from bench.runs.files import write_atomically


def export(*arguments):
    return CliRunner().invoke(app, ["export", "--pipeline", "any", *arguments], catch_exceptions=False)


@pytest.fixture
def asked(monkeypatch):
    """An exporter under every name, which writes the name of the weights; what it was asked with."""
    contexts = []

    def exporter(context, out):
        contexts.append(context)
        if "paint" in context.options:
            raise SettingsError("bench.toml [pipelines.any]: unknown key 'paint'")
        if context.options.get("weights") == "none":
            raise SettingsError("bench.toml [pipelines.any]: unknown key 'weights'", ["weights"])
        write_atomically(out, str(context.options.get("weights")).encode())
        return out

    monkeypatch.setattr(registry, "exporter", lambda name: exporter)
    return contexts


def test_it_writes_where_it_is_told(tmp_path, asked):
    (tmp_path / "mine.safetensors").touch()
    out = tmp_path / "new" / "official.pth"
    result = export("--weights", str(tmp_path / "mine.safetensors"), "--official", str(out), "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    data = out.read_bytes()
    assert data == str(tmp_path / "mine.safetensors").encode()
    said = {"pipeline": "any", "path": str(out), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert found == said
    assert (asked[0].device, asked[0].dataset, asked[0].name) == ("cpu", "file", "any")


def test_the_lines_of_a_data_set(tmp_path, asked):
    config = tmp_path / "mine.toml"
    config.write_text('[pipelines.any]\nweights = "all"\n[pipelines.any.on.shapes]\nweights = "small"\n')
    out = tmp_path / "o.pth"
    result = export("--official", str(out), "--on", "shapes", "--config", str(config))
    assert out.read_text() == "small" and "o.pth: 0.0 MB" in result.stdout


def test_what_is_there_is_kept(tmp_path, asked):
    out = tmp_path / "o.pth"
    out.write_text("precious")
    with pytest.raises(UsageError, match="--force replaces it"):
        export("--official", str(out))
    with pytest.raises(UsageError, match="is a folder"):
        export("--official", str(tmp_path))
    assert out.read_text() == "precious" and not asked
    assert export("--official", str(out), "--force").exit_code == 0 and out.read_text() == "None"
    with pytest.raises(RunError, match="folder is needed"):
        export("--official", str(out / "below.pth"))


def test_options_that_it_cannot_take(tmp_path, asked):
    out = ("--official", str(tmp_path / "o.pth"))
    with pytest.raises(UsageError, match="--weights: any takes none"):
        export(*out, "--weights", "none")
    with pytest.raises(SettingsError, match="unknown key 'paint'"):
        export(*out, "--set", "paint=red")
    assert not Path(out[1]).exists()


def test_a_pipeline_without_an_official_format(tmp_path):
    with pytest.raises(
        UnknownName, match=r"no pipeline with an official format is called 'centre-box'; known: .*clipvg"
    ):
        export("--pipeline", "centre-box", "--official", str(tmp_path / "o.pth"))
