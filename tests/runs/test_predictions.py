"""Stored answers: what they say of themselves."""

from bench.grounding import Prediction
from bench.runs.predictions import SceneAnswers, count_notes


def test_what_answers_say_of_themselves_is_counted():
    def row(scene, *notes):
        return SceneAnswers(
            scene, tuple(Prediction(str(i), (0, 0, 1, 1), None, note=note) for i, note in enumerate(notes))
        )

    rows = [row("a", "text cut from 95 to 77 tokens", ""), row("b", "text cut from 80 to 77 tokens; found alone")]
    assert count_notes(rows) == ["2 answers: text cut from 95 to 77 tokens", "1 answer: found alone"]
    assert count_notes([row("a", "")]) == []
