"""Repositories of the Hugging Face hub that carry the images too: a part of one is downloaded at a pinned commit.

lmms-lab's RefCOCO and RefCOCOg mix two protocols in one part, and are refused unless they are filtered by ids of one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from bench.datasets.catalog import MIRRORS, Catalogued
from bench.datasets.readers import Annotations, ReadOptions
from bench.datasets.readers.hub_rows import with_images
from bench.errors import DataError, MissingPackage, UnknownName, UsageError, first_line
from bench.fetching import network

_UNC_GOOGLE = "its val holds 8,811 objects, the 3,811 of UNC val and the 5,000 of Google val together"
_TEST = "its test holds the 5,000 objects of Google's test, which is no part of the UNC split that everybody reports"
_UMD_GOOGLE = "its val holds 7,573 objects, the 2,573 of UMD val and the 5,000 of Google val together"
MIXED: dict[tuple[str, str], str] = {
    ("RefCOCO", "val"): _UNC_GOOGLE,
    ("RefCOCO", "test"): _TEST,
    ("RefCOCOg", "val"): _UMD_GOOGLE,
}
MIXING_OWNERS = {"lmms-lab", "lmms-lab-encoder"}


def is_repository(name: str, options: ReadOptions) -> bool:
    """Whether `name` is a known mirror, or an owner/name with a revision, so that no mistyped folder is downloaded."""
    owner_and_name = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
    pinned = options.revision is not None or name.partition("/")[0] in MIXING_OWNERS
    return name in {mirror.repo for mirror in MIRRORS.values()} or (owner_and_name and pinned)


def open_mirror(dataset: Catalogued, repo: str, options: ReadOptions, home: Path, offline: bool) -> Annotations:
    """Open a repository of the hub; a part is downloaded when it is read.

    The data set's own mirror has its own names of parts, others use the part's name. Raises DataError for a mirror of
    other data sets.
    """
    own = dataset.hub if dataset.hub and dataset.hub.repo == repo else None
    if own is None and repo in {mirror.repo for mirror in MIRRORS.values()}:
        raise DataError(f"{repo} does not hold {dataset.name}\n{dataset.where}")
    revision = options.revision or (own.revision if own else None)
    downloaded: dict[str, list[Path]] = {}

    def files(part: str) -> list[Path]:
        if part not in downloaded:
            name = f"{own.prefix}_{part}" if own else part
            downloaded[part] = download(repo, revision, name, home, offline, options.keep)
        return downloaded[part]

    return with_images(own.parts if own else dataset.part_names, files, options.keep, revision)


def refuse_mixed(repo: str, part: str, keep: Collection[str] | None = None) -> None:
    """Raise DataError, with the reason, when a part mixes protocols and `keep` does not pick one of them.

    `keep` holds the annotation or ref ids of one protocol, for example the `ref_id`s of an index list's scenes.
    """
    owner, _, name = repo.partition("/")
    reason = MIXED.get((name, part))
    if owner in MIXING_OWNERS and reason and not keep:
        raise DataError(
            f"{repo}, part {part}: {reason}, so a score on it compares with nothing published. Use the refer files, an "
            "index list or jxu124/refcoco-benchmark, or give the annotation ids of the protocol you want"
        )


def download(
    repo: str, revision: str | None, part: str, home: Path, offline: bool, keep: Collection[str] | None = None
) -> list[Path]:
    """Download the parquet files of one part (`refcoco_unc_val`, ...) at a pinned commit, once into `home`/hub.

    `revision` is a whole commit id (40 hex digits); None takes the known one. Raises UsageError where there is none or
    it is a branch, DataError where the part cannot be fetched, and what `refuse_mixed` raises.
    """
    refuse_mixed(repo, part, keep)
    # 1. The commit.
    revision = revision or next((m.revision for m in MIRRORS.values() if m.repo == repo), None)
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        problem = (
            f"{revision!r} is a branch, a tag or a short commit id, and" if revision else "no commit is known; main"
        )
        raise UsageError(
            f"{repo}: {problem} may change under a result. Give the commit, 40 hex digits, with --revision; commits "
            f"are listed at https://huggingface.co/datasets/{repo}/commits/main"
        )
    # 2. The part's files.
    known = {f"{m.prefix}_{name}" for m in MIRRORS.values() if m.repo == repo for name in m.parts}
    if known and part not in known:
        raise UnknownName(f"part of {repo}", part, known)
    try:
        import huggingface_hub
    except ImportError:
        raise MissingPackage("the hub mirrors need huggingface_hub: pip install huggingface_hub") from None
    unreachable = network.why_not(offline)
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            cache_dir=home / "hub",
            allow_patterns=[f"data/{part}-*.parquet"],
            local_files_only=bool(unreachable),
        )
    except Exception as error:  # the hub's errors come from three libraries and have no common root
        if unreachable:
            how = "run once without --offline, where there is a network"
            raise DataError(f"{repo}, part {part}: not in the cache, and {unreachable}; {how}") from None
        raise DataError(f"{repo}, part {part}: cannot be fetched ({first_line(error)[:200]})") from error
    # 3. All of them, by the count in their names.
    files = sorted(Path(folder, "data").glob(f"{part}-*.parquet"))
    pieces = {int(m[1]) for file in files if (m := re.search(r"-of-(\d{5})", file.name))}
    if not files or (pieces and pieces != {len(files)}):
        raise DataError(
            f"{repo}, part {part}: {len(files)} of {max(pieces, default=0) or 'its'} parquet files are in {folder}"
        )
    return files
