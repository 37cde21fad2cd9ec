"""Identity by contents: a run's options and weights with the hashes of files in place of their names.

The same weights under another path, on another machine, or named by another option are the same run. Where a new run
looks at the files, a stored record has only names and hashes: it is brought to the same form when it is read, and what
it cannot map to a hash keeps the file's name without its folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.hashing import spelled_out
from bench.old_names import current
from bench.runs.provenance import settings_hash
from bench.settings import WEIGHTS

PATHS = WEIGHTS | {"file", "tokenizer"}  # keys of options that may name a file without a folder or a suffix
MARK = "sha256:"
DIGESTS = re.compile(r"[0-9a-f]{64}(, [0-9a-f]{64})*")
HASHED = ("pipeline", "options", "device", "dtype", "seed", "deterministic")
ONLY_IF_SET = ("compile", "channels_last", "weights")  # absent, the hash is what it was before they were in it

Digest = Callable[[str, str], str | None]  # key and value of an option -> the hash of what it names


def hash_of(identity: Mapping[str, Any]) -> str:
    """Hash an identity, as JSON has it, without its data; rows of tables and folders of runs go by it."""
    set_ones = {name: identity[name] for name in ONLY_IF_SET if identity.get(name)}
    return settings_hash({name: identity[name] for name in HASHED} | set_ones)


def weights_by_part(names: Mapping[str, str], hashes: Mapping[str, str]) -> dict[str, str]:
    """Return part -> hashes, joined by ", ", or the name where none is known; `hashes` may be by part or by file."""
    out: dict[str, str] = {}
    left = dict(hashes)
    for part, name in names.items():
        files = [key for key in left if key == part] or [
            key for key in left if key not in names and _is_under(key, (name.rstrip("/"), _base(name)))
        ]
        out[part] = ", ".join(left.pop(key) for key in files) or _without_folder(name)
    return out | {_without_folder(key): value for key, value in left.items()}


def options_by_contents(
    options: Mapping[str, Any],
    names: Mapping[str, str],
    weights: Mapping[str, str],
    dataset: str,
    file_of: Digest = lambda key, value: None,
    folder_of: Digest = lambda key, value: None,
) -> dict[str, Any]:
    """Return the options with `sha256:...` in place of what names a file or folder, and the `weights` shorthand moved.

    What the card says of a name counts first (`names` and `weights`, by part): its hash may be of the values alone.
    Then a file on disk, the card's files whatever their folder, a folder. `{dataset}` in a name stands for `dataset`.
    """
    known = {part: _digests(name, weights.get(part, "")) for part, name in names.items()}

    def content(path: tuple[str, ...], value: str, model: str) -> str:
        key, name = path[-1], value.replace("{dataset}", dataset)
        if value.startswith(MARK) or not (key in PATHS or re.search(r"[\\/]|\.\w+$", value)):
            return value
        tables = [known[path[0]]] if path[0] in known else list(known.values())  # a part's own options, or others
        digest = (
            _of_card(tables, name, model)
            or file_of(key, name)
            or _of_card(tables, _base(name), model)
            or folder_of(key, name)
        )
        return f"{MARK}{digest}" if digest else _without_folder(value)

    plain = {key: value for key, value in spelled_out(options).items() if key != "card"}
    replaced: dict[str, Any] = _mapped(plain, content, (), "")
    return {key: replaced.get(key, value) for key, value in spelled_out(options).items()}


def by_contents(record: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a record, of a run or of speed, in today's names and with its identity by contents.

    Its settings hash is made anew where it was the hash of what the record says. Nothing on disk is looked at.
    """
    as_it_was, record = record, current(record)
    try:
        identity, names = record["identity"], record["card"].get("weights") or {}
        own = as_it_was["settings_hash"] in (_hash_of_before(as_it_was["identity"]), hash_of(as_it_was["identity"]))
        stored: dict[str, str] = identity["weights"]
        known = {part: value for part, value in stored.items() if DIGESTS.fullmatch(value)}
        unknown = {part: _without_folder(value) for part, value in stored.items()}
        weights = weights_by_part({part: name for part, name in names.items() if part in stored}, known)
        weights = {part: value for part, value in unknown.items() if part not in known} | weights
        split: str = identity["data"]["split"]
        dataset = "file" if split.startswith("file:") else split.rpartition("-")[0]
        identity |= {"weights": weights, "options": options_by_contents(identity["options"], names, weights, dataset)}
        if own:
            record["settings_hash"] = hash_of(identity)
    except (KeyError, TypeError, AttributeError):  # no record; whoever validates it says why
        pass
    return record


def _hash_of_before(identity: Mapping[str, Any]) -> str:
    """Hash an identity as version 0.1 did: by names, without the weights."""
    return hash_of({key: value for key, value in identity.items() if key != "weights"})


def _mapped(value: Any, content: Callable[[tuple[str, ...], str, str], str], path: tuple[str, ...], model: str) -> Any:
    """Apply `content` to every text of nested options: its keys from the top, the text, the model of its table."""
    if isinstance(value, Mapping):
        model = str(value.get("model", ""))
        return {key: _mapped(inner, content, (*path, str(key)), model) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(inner, content, path, model) for inner in value]
    return content(path, value, model) if isinstance(value, str) else value


def _digests(names: str, digests: str) -> dict[str, str]:
    """Return name -> hashes for one part of a card, whose files and hashes are each joined by ", "."""
    if not DIGESTS.fullmatch(digests):
        return {}
    files, hashes = names.split(", "), digests.split(", ")
    if len(files) != len(hashes):
        return dict.fromkeys(_forms(names), digests)
    matches: dict[str, set[str]] = {}
    for file, digest in zip(files, hashes, strict=True):
        for form in _forms(file):
            matches.setdefault(form, set()).add(digest)
    folder = {file.rpartition("/")[0] for file in files}
    if len(folder) == 1 and (whole := folder.pop()):  # every file of one model of the hub
        matches |= {form: {digests} for form in _forms(whole)}
    return {form: digest for form, (digest, *more) in matches.items() if not more}


def _forms(name: str) -> Iterator[str]:
    """List the spellings under which an option may name it: "MODEL TAG", TAG, and both without folders."""
    model, _, tag = name.rstrip("/").rpartition(" ")
    for form in (tag, _base(tag)):
        yield form
        if model:
            yield f"{model} {form}"


def _of_card(tables: Sequence[Mapping[str, str]], name: str, model: str) -> str | None:
    """Find the hash that the tables of a card's parts agree on for "MODEL NAME", or else for the name."""
    for form in (f"{model} {name}", name):
        if len(matches := {table[form] for table in tables if form in table}) == 1:
            return matches.pop()
    return None


def _base(name: str) -> str:
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1]


def _without_folder(name: str) -> str:
    """Cut the folder off an absolute path, which means nothing on another machine."""
    return _base(name) if re.match(r"[/~]|[A-Za-z]:[\\/]", name) else name


def _is_under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}/") for name in names)
