"""run.json edited in tests: with the seal that a careful forger writes, or with the one it had."""

import json

from bench.runs.seal import SEAL, seal_of


def edited(folder, change=None, seal=True, **values):
    """Change the JSON of a run's record by a function of it, and by dotted keys as `metrics__hits`."""
    path = folder / "run.json"
    record = json.loads(path.read_bytes())
    if change is not None:
        change(record)
    for dotted, value in values.items():
        *keys, last = dotted.split("__")
        table = record
        for key in keys:
            table = table[key]
        table[last] = value
    if seal:
        record[SEAL] = seal_of(record)
    path.write_text(json.dumps(record))
    return folder


def committed(folder):
    """Make the record one of committed code, whatever this checkout is."""
    return edited(folder, git__dirty=False)
