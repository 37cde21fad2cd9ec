"""Everything here trains in the world of tests/small_training.py."""

from small_training import (  # noqa: F401 - fixtures
    clip_weights,
    job,
    one_tokenizer,
    pictures,
    recipe,
    rows,
    same,
    scenes,
    settings_file,
    table,
)
