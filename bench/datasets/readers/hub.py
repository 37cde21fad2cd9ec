"""Mirrors on the Hugging Face hub that carry the images too: which there are, and how a part is downloaded, pinned.

lmms-lab's RefCOCO and RefCOCOg mix two protocols in one part, and are refused unless they are filtered by ids of one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from bench.errors import DataError, MissingPackage, UnknownName, UsageError, first_line


class Mirror(NamedTuple):
    """Where a data set lies on the hub: repository, prefix of its parts' names, parts, a commit known to be whole."""

    repo: str
    prefix: str
    parts: tuple[str, ...]
    revision: str | None


# The last commit of refcoco-benchmark (30 October 2023). Of refclef-benchmark's only the short form, fd0fa8d, is known.
REFCOCO_COMMIT = "2f2f892835bbf44b4db81f1c4ad6d46a3e9e4359"
MIRRORS: dict[str, Mirror] = {
    "refcoco": Mirror("jxu124/refcoco-benchmark", "refcoco_unc", ("val", "testA", "testB"), REFCOCO_COMMIT),
    "refcoco+": Mirror("jxu124/refcoco-benchmark", "refcoco_plus_unc", ("val", "testA", "testB"), REFCOCO_COMMIT),
    "refcocog": Mirror("jxu124/refcoco-benchmark", "refcocog_umd", ("val", "test"), REFCOCO_COMMIT),
    "refcocog-google": Mirror("jxu124/refcoco-benchmark", "refcocog_google", ("val",), REFCOCO_COMMIT),
    "refcoco-google": Mirror("jxu124/refcoco-benchmark", "refcoco_google", ("val", "test"), REFCOCO_COMMIT),
    "referit": Mirror("jxu124/refclef-benchmark", "refclef_berkeley", ("val", "test"), None),
    "referit-unc": Mirror("jxu124/refclef-benchmark", "refclef_unc", ("val", "testA", "testB", "testC"), None),
}

_UNC_GOOGLE = "its val holds 8,811 objects, the 3,811 of UNC val and the 5,000 of Google val together"
_TEST = "its test holds the 5,000 objects of Google's test, which is no part of the UNC split that everybody reports"
_UMD_GOOGLE = "its val holds 7,573 objects, the 2,573 of UMD val and the 5,000 of Google val together"
MIXED: dict[tuple[str, str], str] = {
    ("RefCOCO", "val"): _UNC_GOOGLE,
    ("RefCOCO", "test"): _TEST,
    ("RefCOCOg", "val"): _UMD_GOOGLE,
}
MIXING_OWNERS = {"lmms-lab", "lmms-lab-encoder"}


def refuse_mixed(repo: str, part: str, keep: Collection[str] | None = None) -> None:
    """Raises DataError, with the reason, when a mirror's part mixes protocols and `keep` does not pick one out of it.

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
    revision = revision or next((m.revision for m in MIRRORS.values() if m.repo == repo), None)
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        said = (
            f"{revision!r} is a branch, a tag or a short commit id, and may"
            if revision
            else "no commit is known here; main may"
        )
        raise UsageError(
            f"{repo}: {said} change under a result. Give the commit, 40 hex digits, with --revision; the commits are "
            f"listed at https://huggingface.co/datasets/{repo}/commits/main"
        )
    known = {f"{m.prefix}_{name}" for m in MIRRORS.values() if m.repo == repo for name in m.parts}
    if known and part not in known:
        raise UnknownName(f"part of {repo}", part, known)
    try:
        import huggingface_hub
    except ImportError:
        raise MissingPackage('the hub mirrors need huggingface_hub: pip install "grounding-bench[hub]"') from None
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            cache_dir=home / "hub",
            allow_patterns=[f"data/{part}-*.parquet"],
            local_files_only=offline,
        )
    except Exception as error:  # the hub's errors come from three libraries and have no common root
        how = "it is not in the cache; run once without --offline" if offline else "is the hub within reach?"
        raise DataError(f"{repo}, part {part}: cannot be fetched ({first_line(error)[:200]}); {how}") from error
    files = sorted(Path(folder, "data").glob(f"{part}-*.parquet"))
    pieces = {int(m[1]) for file in files if (m := re.search(r"-of-(\d{5})", file.name))}
    if not files or (pieces and pieces != {len(files)}):
        raise DataError(
            f"{repo}, part {part}: {len(files)} of {max(pieces, default=0) or 'its'} parquet files are in {folder}"
        )
    return files
