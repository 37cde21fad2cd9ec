"""Study files: what is a pair, which settings it has, and that a file is checked whole before anything runs."""

import re
import subprocess

import pytest

from bench.errors import UsageError
from bench.evaluation.jobs import array_script, environments
from bench.evaluation.study import Study, plan, read_study, stored

ROW = '{"id": "1", "image": "a.png", "width": 40, "height": 30, "text": "it", "box_xyxy": [0, 0, 9, 9]}\n'
BOTH = 'pipelines = ["centre-box", "whole-image"]\nsplits = ["shapes-val", "file:own.jsonl"]\n'


@pytest.fixture
def study(tmp_path, monkeypatch):
    """study(text) -> the file; in a folder of its own with own.jsonl and w.pt, while we stand elsewhere."""
    folder = tmp_path / "studies"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (folder / "own.jsonl").write_text(ROW)
    (folder / "w.pt").touch()

    def write(text):
        (folder / "study.toml").write_text(text)
        return folder / "study.toml"

    return write


def named(pairs):
    return [f"{pair.number} {pair}" for pair in pairs]


def test_pipelines_times_splits_times_the_variants_that_take_them(study):
    text = BOTH + '[[variant]]\nname = "half"\npipelines = ["centre-box"]\nset = { share = 0.5 }\n'
    text += '[[variant]]\nname = "most"\npipelines = ["centre-box"]\nsplits = ["shapes-val"]\nset = { share = 0.9 }\n'
    pairs = plan(read_study(study(text)))
    assert named(pairs) == [
        "1 centre-box (half) on shapes-val",
        "2 centre-box (most) on shapes-val",
        "3 centre-box (half) on file:own",
        "4 whole-image on shapes-val",
        "5 whole-image on file:own",
    ]
    assert [pair.options for pair in pairs] == [{"share": 0.5}, {"share": 0.9}, {"share": 0.5}, {}, {}]
    assert all(stored(pair) is None for pair in pairs)
    (fourth,) = plan(read_study(study(text)), wanted=lambda number, *_: number == 4)
    assert named([fourth]) == ["4 whole-image on shapes-val"], "numbers are those of the whole study"


def test_the_command_line_wins_over_a_variant_and_that_over_the_study(study):
    text = BOTH + 'limit = 3\nresults = "here"\n[run]\nbatch_size = 2\nseed = 1\n'
    text += '[[variant]]\nname = "a"\nrun = { seed = 2, dtype = "float32" }\n'
    pair, *_ = plan(read_study(study(text)), flags={"run.dtype": "bfloat16"}, limit=2)
    settings = pair.resolved.settings
    assert (settings.run.batch_size, settings.run.seed, settings.run.dtype) == (2, 2, "bfloat16")
    assert len(pair.split.scenes) == 2 and pair.split.partial
    assert settings.results == str(study(text).parent / "here")


def test_paths_start_at_the_file_and_weights_go_by_pipeline_and_data_set(study):
    text = BOTH + '[weights]\nwhole-image = { shapes = "w.pt", file = "org/model" }\n'
    pairs = plan(read_study(study(text)))
    assert [pair.options.get("weights") for pair in pairs] == [
        None,
        None,
        str(study(text).parent / "w.pt"),
        "org/model",
    ]


@pytest.mark.parametrize(("text", "message"), [
    ("pipelines = [", "study.toml: "),
    (BOTH + "limits = 3\n", "study.toml: unknown key 'limits'; did you mean 'limit'?"),
    (BOTH + "limit = 0\n", "study.toml: limit: "),
    (BOTH + "run = { sed = 1 }\n", "study.toml: run: a setting of [run]: unknown key 'sed'; did you mean 'seed'?"),
    (BOTH + '[[variant]]\nname = "a"\nsets = {}\n', "[[variant]] a: unknown key 'sets'; did you mean 'set'?"),
    (BOTH + "[[variant]]\nset = {}\n", "study.toml: [[variant]] 1: it needs a name"),
    (BOTH + '[[variant]]\nname = "a"\n[[variant]]\nname = "a"\n', "study.toml: [[variant]] a: two have this name"),
    ('splits = ["shapes-val"]\n', "study.toml: pipelines and splits: a study needs at least one of each"),
    ('pipelines = ["center-box"]\nsplits = ["shapes-val"]\n', "pipelines: no pipeline is called 'center-box'; did you"),
    ('pipelines = ["centre-box"]\nsplits = ["shape-val"]\n', "study.toml: splits: no split is called 'shape-val'"),
    ('pipelines = ["centre-box"]\nsplits = ["refcoco-val"]\n', "study.toml: splits: refcoco-val"),
    ('pipelines = ["centre-box"]\nsplits = ["file:no.jsonl"]\n', "studies/no.jsonl"),
    (BOTH + 'on = "shape"\n', "study.toml: on: no dataset is called 'shape'; did you mean 'shapes'?"),
    (BOTH + '[[variant]]\nname = "a"\npipelines = ["mdetr"]\n', "a: pipelines: mdetr is not among those"),
    (BOTH + '[weights]\nmdetr = "w.pt"\n', "study.toml: weights: mdetr is neither a pipeline"),
    (BOTH + '[[variant]]\nname = "a"\nset = { shar = 1 }\n', "a: set: bench.toml [pipelines.centre-box]: unknown key"),
    (BOTH + '[[variant]]\nname = "a"\n[[variant]]\nname = "b"\n', "centre-box (a) on shapes-val and centre-box (b) on"),
])  # fmt: skip
def test_a_mistake_names_the_file_and_the_key(study, tmp_path, monkeypatch, text, message):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        plan(read_study(study(text)))
    assert "study.toml" in str(error.value)


def test_the_script_of_an_array_is_one_that_bash_takes(study):
    pairs = plan(read_study(study(BOTH)), flags={"run.device": "cpu"})
    script = array_script(["run", "--study", "it's.toml"], pairs, "study")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "--array=1-4" in script and "# " + " " * 2 + "4  whole-image on file:own" in script
    assert """run --study 'it'"'"'s.toml' --task "$SLURM_ARRAY_TASK_ID" &""" in script and "gpus" not in script
    for part in (
        '--cpus-per-task "$SLURM_CPUS_PER_TASK"',
        "--signal=B:USR1@",
        "scontrol requeue",
        "--output=%x-%A_%a.log",
    ):
        assert part in script
    on_gpus = array_script(["run"], plan(Study(pipelines=("centre-box",), splits=("shapes-val",))), "x")
    assert "--gpus-per-task=1" in on_gpus and on_gpus.startswith("#!/bin/bash\n")


def test_a_process_has_its_threads_and_its_gpu(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    envs = environments(3, ["0", "MIG-7"])
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == ["0", "MIG-7", "0"]
    assert {env["OMP_NUM_THREADS"] for env in envs} == {"4"}
    assert "CUDA_VISIBLE_DEVICES" not in environments(2, ["0"])[0], "one GPU is shared as it is"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environments(12, [])[0]["OMP_NUM_THREADS"] == "2", "the user's own number wins"
