"""Models of transformers by id or folder: loaded strictly, hashed, and errors that name the places and the remedy.

Ids are cached under BENCH_HOME/weights/huggingface, in the hub's own layout, so a cache filled elsewhere can be copied.
Code beside weights is never run, and of a pickle only tensors are read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bench.errors import WeightsError, first_line
from bench.fetching import network
from bench.fetching.sources import Source, not_there, source_of
from bench.grounding import PipelineContext
from bench.hashing import looked_at, places_of, sha256_file
from pipelines.weights import option_of

WEIGHTS = ("*.safetensors", "*.bin")
LISTED = 6  # keys in a message


def cache_folder(context: PipelineContext) -> Path:
    """Return the folder in which ids of the hub are cached."""
    return context.home / "weights" / "huggingface"


def find_folder(name: str, context: PipelineContext) -> Path | None:
    """Return the local folder `name` means, from the places of `find_file`; None for an id."""
    return next((place.resolve() for place in places_of(name, context) if (place / "config.json").is_file()), None)


def load_pretrained(
    auto_class: Any, name: str, context: PipelineContext, what: str, model: str = "", **kwargs: Any
) -> Any:
    """Load a config, processor or tokenizer by `auto_class.from_pretrained`, for a hub id or a local folder.

    `what` starts the message ("GroundingDINO"); `model` is "tokenizer" for a tokenizer alone. Raises WeightsError: the
    id, the cache, and how to fetch it elsewhere.
    """
    folder = find_folder(name, context)
    if folder is None and _is_path(name):
        raise WeightsError(f"{what}: no folder {name!r} with a config.json (looked at {looked_at(name, context)})")
    why = "" if folder else network.why_not(context.offline)
    try:
        with _quiet():
            return auto_class.from_pretrained(
                str(folder or name),
                cache_dir=str(cache_folder(context)),
                local_files_only=bool(folder or why),
                trust_remote_code=False,
                **kwargs,
            )
    except Exception as error:  # transformers and the hub raise many kinds
        if folder is not None or not isinstance(error, OSError):
            raise WeightsError(f"{what}: {folder or name} cannot be loaded ({first_line(error)})") from None
        source = source_of(name, model, context, option_of(name, context))
        raise WeightsError(f"{what}: {not_there(source, context, why or first_line(error))}") from None


def load_model(auto_class: Any, name: str, context: PipelineContext, what: str, **kwargs: Any) -> Any:
    """Load a model: float32 unless `dtype` differs, in eval mode, on the context's device.

    Raises WeightsError, also for a checkpoint that leaves parameters at random.
    """
    import torch

    kwargs = {"dtype": torch.float32} | kwargs
    model, report = load_pretrained(auto_class, name, context, what, output_loading_info=True, **kwargs)
    random = sorted(map(str, report["missing_keys"])) + sorted(map(str, report["mismatched_keys"]))
    if random:
        more = f" and {len(random) - LISTED} more" if len(random) > LISTED else ""
        raise WeightsError(
            f"{what}: {name} is no complete checkpoint of {type(model).__name__}: {len(random)} of its keys are "
            f"missing: {', '.join(random[:LISTED])}{more}"
        )
    return model.eval().to(context.device)


def find_weights(source: Source, context: PipelineContext, what: str) -> Path:
    """Return the first of the files of an id of the hub that it has, cached or fetched.

    `what` starts the message. Raises WeightsError: the cache, and how to fetch it elsewhere.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    why = network.why_not(context.offline)
    failure = f"it has none of {', '.join(source.files)}"
    for file in source.files:
        try:
            return Path(hf_hub_download(source.hub, file, cache_dir=str(source.cache), local_files_only=bool(why)))
        except EntryNotFoundError:  # offline too: a file that is not cached may exist
            continue
        except Exception as error:  # the hub raises many kinds
            failure = first_line(error)
            break
    raise WeightsError(f"{what}: {not_there(source, context, why or failure)}")


def hashes(name: str, context: PipelineContext) -> dict[str, str]:
    """Hash the weights files just loaded under `name`: OWNER/MODEL/model.safetensors -> SHA-256."""
    local = find_folder(name, context)
    folder = local or _snapshot(name, context)
    if folder is None:
        return {}
    prefix = local.name if local else name
    files = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    safe = [path for path in files if path.suffix == ".safetensors"]
    return {f"{prefix}/{path.name}": sha256_file(path.resolve()) for path in safe or files}


def autocast(context: PipelineContext) -> AbstractContextManager[Any]:
    """Run matrix products in the context's dtype; sums stay in float32, whose digits boxes need."""
    import torch

    dtype = getattr(torch, context.dtype)
    return torch.autocast(torch.device(context.device).type, dtype, enabled=dtype != torch.float32)


def _snapshot(name: str, context: PipelineContext) -> Path | None:
    """Return the cached folder of an id's main revision."""
    repository = cache_folder(context) / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return repository / "snapshots" / commit


def _is_path(name: str) -> bool:
    """Tell whether a name can be no id of the hub, which is NAME or OWNER/NAME."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and the library's advice; errors are still raised."""
    from transformers.utils import logging as verbosity

    before, bars = verbosity.get_verbosity(), verbosity.is_progress_bar_enabled()
    verbosity.set_verbosity(logging.ERROR)
    verbosity.disable_progress_bar()
    try:
        yield
    finally:
        verbosity.set_verbosity(before)
        if bars:
            verbosity.enable_progress_bar()
