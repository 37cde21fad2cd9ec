"""Presets: every entry is whole, the frame is declared, and numbers become pixels as it says."""

import pytest

from bench.errors import SettingsError, UnknownName, WeightsError
from pipelines.zoo.presets import AnswerOptions, Resize, known, prompting

WHERE = "bench.toml [pipelines.api]"


def open_preset(**options):
    return prompting(AnswerOptions(**options), WHERE)


@pytest.mark.parametrize("name", known())
def test_every_preset_is_whole(name):
    """It opens as it is, or refuses to guess a frame; what no source confirms is named."""
    preset = known()[name]
    assert set(preset.unsure) <= {"prompt", "readers", "frame", "axes", "resize"}
    assert ("recalled" in preset.source) <= bool(preset.unsure)
    if not preset.frame:
        with pytest.raises(SettingsError, match="declares no frame; state what the model's numbers count"):
            open_preset(preset=name)
    made = open_preset(preset=name, frame=preset.frame or "0-1000")
    assert made.mark.startswith(f"{name}@{preset.version}") and "red dog" in made.question("red dog")
    assert "<" not in made.question("a<|im_end|>b").replace(made.question(""), "") or "<" in preset.prompt


@pytest.mark.parametrize(
    ("name", "answer", "box"),
    [("qwen3", '[{"bbox_2d": [250, 500, 500, 1000]}]', (160, 240, 320, 480)),
     ("qwen2.5", '[{"bbox_2d": [161, 238, 322, 476]}]', (160, 240, 320, 480)),
     ("gemini", '[{"box_2d": [500, 250, 1000, 500]}]', (160, 240, 320, 480)),
     ("deepseek-vl2", "<|det|>[[0, 0, 999, 999]]<|/det|>", (0, 0, 640, 480)),
     ("internvl", "<box>[[250, 500, 500, 1000]]</box>", (160, 240, 320, 480)),
     ("llava", "[0.25, 0.5, 0.5, 0.75]", (160, 240, 320, 400))],
)  # fmt: skip
def test_numbers_become_pixels_as_the_preset_declares(name, answer, box):
    made = open_preset(preset=name)
    sent = made.preset.resize.size(640, 480)
    prediction = made.prediction("q", answer, (640, 480), sent)
    assert prediction.box == pytest.approx(box) and prediction.answer == answer


def test_resizing():
    assert Resize().size(641, 480) == (641, 480) and Resize(longest=320).size(640, 480) == (320, 240)
    assert Resize(longest=320).size(100, 50) == (100, 50) and Resize(longest=4).size(9000, 1) == (4, 1)
    assert Resize(multiple=28).size(640, 480) == (644, 476) and Resize(multiple=28).size(1, 1) == (56, 56)
    width, height = Resize(multiple=28, most=16).size(4000, 1000)
    assert width % 28 == height % 28 == 0 and width * height <= 16 * 28 * 28


def test_with_the_rule_all_every_box_is_in_the_prediction_and_none_is_said():
    options = AnswerOptions(preset="qwen3")
    every = prompting(options, "here", sets=True)
    assert every.mark == "qwen3@1,all" and prompting(options, "here").mark == "qwen3@1,first"
    two = every.prediction("q", '[{"bbox_2d": [1, 2, 300, 400]}, {"bbox_2d": [9, 9, 1, 1]}, {"bbox_2d": [5, 6, 7, 8]}]',
                           (1000, 1000), (1000, 1000))  # fmt: skip
    assert two.box == (1, 2, 300, 400) and [each.box for each in two.others] == [(5, 6, 7, 8)] and two.none is None
    nothing, unread = (every.prediction("q", text, (9, 9), (9, 9)) for text in ("[]", "I see no such thing, sorry."))
    assert (nothing.box, nothing.none, unread.box, unread.none) == (None, 1, None, None)
    inverted = every.prediction("q", '{"bbox_2d": [9, 9, 1, 1]}', (9, 9), (9, 9))
    assert inverted.box is None and inverted.none is None
    plain = prompting(options, "here").prediction("q", "[]", (9, 9), (9, 9))
    assert plain.none is None
    assert prompting(AnswerOptions(preset="qwen3", several="largest"), "x", sets=True).mark == "qwen3@1,largest"


@pytest.mark.parametrize(
    ("several", "answer", "note"),
    [("first", "[1, 2, 3, 4]", "parsed as json"),
     ("largest", "[[1, 2, 3, 4], [1, 1, 9, 9]]", "parsed as json; the largest of 2 boxes"),
     ("refuse", "[[1, 2, 3, 4], [1, 1, 9, 9]]", "no box: 2 boxes are refused"),
     ("first", "[3, 2, 1, 4]", "no box: its corners are the wrong way round"),
     ("first", '{"bbox_2d": null}', "no box: the answer states that there is none"),
     ("first", "I cannot", "no box: the answer cannot be parsed")],
)  # fmt: skip
def test_a_note_states_how_the_answer_was_parsed(several, answer, note):
    prediction = open_preset(preset="qwen3", several=several).prediction("q", answer, (100, 100), (100, 100))
    assert prediction.note == note and (prediction.box is None) == note.startswith("no box")


def test_the_mark_has_preset_version_rule_and_whatever_is_changed():
    plain, other = open_preset(preset="qwen3"), open_preset(preset="qwen3", several="refuse")
    changed = [open_preset(preset="qwen3", **each).mark for each in ({"frame": "0-1"}, {"prompt": "{}?"})]
    assert (plain.mark, other.mark) == ("qwen3@1,first", "qwen3@1,refuse")
    assert len({plain.mark, *changed}) == 3 and all(mark.startswith("qwen3@1+") for mark in changed)


def test_wrong_presets_and_frames_are_named():
    with pytest.raises(UnknownName, match="no preset is called 'qwen4'; did you mean 'qwen' or 'qwen3'"):
        open_preset(preset="qwen4")
    with pytest.raises(SettingsError, match=r"no frame is called 'thousandths'.*--set frame=.*0-1000"):
        open_preset(preset="qwen3", frame="thousandths")
    with pytest.raises(SettingsError, match="no frame is called '0-100' with y first"):
        open_preset(preset="qwen3", frame="0-100", axes="y first")
    with pytest.raises(WeightsError, match="is a model of which it is not written down what its coordinates count"):
        prompting(AnswerOptions(), WHERE, "florence2")
