"""Published weights: where they come from, whether they are on this disk, and what to do when they are not.

Neither a pipeline nor torch is imported, so that weights that are missing are an error at once.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import registry
from bench.errors import WeightsError
from bench.evaluation.progress import message
from bench.fetching import network
from bench.hashing import MODEL_FILES, looked_at, places_of
from bench.imports import lean
from bench.settings import WEIGHTS

if TYPE_CHECKING:
    from bench.grounding import PipelineContext
    from bench.settings import Resolved

    Where = PipelineContext | Resolved

CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(/\w[\w.-]*)?")


class Source(NamedTuple):
    """Weights that an option names, and what brings them: an id of the hub, an address, or a person (`how`).

    `files` are what is needed of the id, the first that it has for a CLIP; none = the model's. `cache` is the hub's
    cache that the pipeline reads, `target` the file that `url` is stored as. `by_itself`: the first use fetches them.
    """

    name: str
    model: str = ""
    key: str = ""
    hub: str = ""
    files: tuple[str, ...] = ()
    cache: Path = Path()
    url: str = ""
    target: Path = Path()
    sha256: str = ""
    how: str = ""
    by_itself: bool = True

    @property
    def what(self) -> str:
        return f"{self.model} {self.name}".strip()

    @property
    def by_hand(self) -> str:
        """Return the command, or the sentence, that brings the weights without this program."""
        if self.hub:
            files = self.files if self.model == "tokenizer" else self.files[:1]
            return shlex.join(["hf", "download", self.hub, *files, "--cache-dir", str(self.cache)])
        if self.url:
            return shlex.join(["curl", "-L", "--create-dirs", "-o", str(self.target), self.url])
        return self.how

    @property
    def fetch_line(self) -> str:
        """Return the command of ours that fetches the weights; "" where only a person can."""
        return shlex.join(["bench", "fetch", self.what]) if self.hub or self.url else ""


def named(options: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """List (option, weights, the model they are for) of a pipeline's options, however deep."""
    if not isinstance(options, Mapping):
        return
    for key, value in options.items():
        if key == "masks" and options.get("method", "masks") != "masks":
            continue  # a segmenter that is not in use
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, str) and inner and (key in WEIGHTS or (key == "start_from" and _is_whole(inner))):
                yield f"{prefix}{key}", inner, str(options.get("model", ""))
            else:
                yield from named(inner, f"{prefix}{key}.")
    # Official weights bring no tokenizer.
    if str(options.get("weights", "")).endswith(".pth") and isinstance(options.get("tokenizer"), str):
        yield f"{prefix}tokenizer", options["tokenizer"], "tokenizer"


def _is_whole(name: str) -> bool:
    """Tell whether a name says by itself which weights it means; a tag of open_clip needs the model's name."""
    return "/" in name or name.endswith(SUFFIXES)


def source_of(name: str, model: str, where: Where, key: str = "") -> Source:
    """Look up where weights come from; `model` is the CLIP's name, or "tokenizer"."""
    home = where.home / "weights"
    source = Source(name, model, key)
    entry = next((e for e in _table() if any(fnmatch(source.what, pattern) for pattern in e["names"])), {})
    if (
        model not in ("", "tokenizer")
        and not _is_whole(name)
        and (tag := entry.get("clip") or _of_open_clip(model, name))
    ):
        owner, repository, *file = tag.split("/")
        files = (f"{Path(file[0]).stem}.safetensors", file[0]) if file else CLIP_FILES
        return source._replace(hub=f"{owner}/{repository}", files=files, cache=home / "open_clip")
    if "hub" in entry:
        return source._replace(hub=entry["hub"], files=tuple(entry["files"]), cache=home / "huggingface")
    if "url" in entry:
        url, target = (str(entry[part]).replace("{name}", name) for part in ("url", "file"))
        by_itself = entry.get("by_itself", True)
        return source._replace(url=url, target=home / target, sha256=entry.get("sha256", ""), by_itself=by_itself)
    if _ID.fullmatch(name) and not name.split("/")[1].endswith(SUFFIXES):
        owner, repository, *file = name.split("/")
        return source._replace(hub=f"{owner}/{repository}", files=tuple(file), cache=home / "huggingface")
    how = entry.get("how", "put the file into {home}")
    return source._replace(how=how.replace("{home}", str(home)).replace("{name}", name), by_itself=False)


def at_hand(source: Source, where: Where) -> bool:
    """Tell whether weights lie on this disk: a file, a folder, or in a cache under BENCH_HOME."""
    places = places_of(source.name, where)
    if any(p.is_file() or any((p / file).is_file() for file in MODEL_FILES) for p in places):
        return True
    if source.url:
        return source.target.is_file()
    return bool(source.hub) and any(cached(source))


def cached(source: Source) -> Iterator[Path]:
    """List the files of an id of the hub that its cache holds, of those that are needed."""
    snapshots = source.cache / f"models--{source.hub.replace('/', '--')}" / "snapshots"
    return (path for path in snapshots.glob("*/*") if path.is_file() and path.name in (source.files or (path.name,)))


def missing(options: Mapping[str, Any], where: Where) -> list[Source]:
    """List the weights that a pipeline's options name and that are not on this disk."""
    sources = [source_of(name, model, where, key) for key, name, model in named(options)]
    return [source for source in dict.fromkeys(sources) if not at_hand(source, where)]


def refuse_missing(name: str, options: Mapping[str, Any], where: Where, offline: bool) -> None:
    """Raise WeightsError for missing weights that the pipeline could not fetch; other packages' look for their own."""
    if not registry.is_ours(registry.PIPELINES, name):
        return
    for source in missing(options, where):
        if not source.by_itself:
            raise not_there(source, where)
        if why := network.why_not(offline, source.url or None):
            raise not_there(source, where, why)


def not_there(source: Source, where: Where, why: str = "") -> WeightsError:
    """Make the error for missing weights: `why` they cannot be fetched, where they were looked for, what to do."""
    subject = f"the {source.what} is" if source.model == "tokenizer" else f"the weights {source.what} are"
    lines = [f"{subject} not there" + (f", and {why}" if why else "")]
    lines.append(f"looked in: {source.cache}" if source.hub else f"looked for: {looked_at(source.name, where)}")
    if source.fetch_line:
        lines.append(f"fetch them where there is a network: {source.fetch_line}")
        lines.append(f"or by hand: {source.by_hand}")
        lines.append(f"(fetched on another machine? Copy its BENCH_HOME/weights to {where.home / 'weights'})")
    elif source.how:
        lines.append(source.how)
    if source.key:
        flag = "--weights FILE" if source.key == "weights" else f"--set {source.key}=FILE"
        lines.append(f"or name what you have: {flag}")
    return WeightsError("\n  ".join(lines))


@cache
def _of_open_clip(model: str, tag: str) -> str:
    """Ask open_clip where a tag lies: OWNER/REPOSITORY, or with the file; "" where it knows none. It imports torch."""
    if "open_clip" not in sys.modules:
        message("loading open_clip ...")
    with lean():
        import open_clip

    return str(open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "")).rstrip("/")


@cache
def _table() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "sources.toml").read_text("utf-8"))["source"]
    return table
