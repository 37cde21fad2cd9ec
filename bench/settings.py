"""bench.toml -> frozen settings.

Defaults live in the classes here and in those of the pipelines. Three layers lie over them, the later one winning: the
project's own bench.toml, which holds what differs from the code, the user's bench.toml (`--config`, BENCH_CONFIG, or
the nearest one from the working folder upwards), and flags. Unknown keys are refused with the nearest known one.

Not pydantic-settings: it keeps no origin of a key, merges no table by its `kind`, and names no file in errors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.acceleration import Acceleration
from bench.errors import SettingsError, nearest, short
from bench.inputs import Limits, enforce
from bench.toml_tables import anchored as anchored
from bench.toml_tables import flattened as flattened
from bench.toml_tables import merged as merged
from bench.toml_tables import nested as nested
from bench.toml_tables import read_toml as read_toml

MOST_SEED = 2**63 - 1
WEIGHTS = frozenset({"weights", "pretrained", "checkpoint"})  # keys of bench.toml that name weights
PERTURB = "perturb"  # key of every pipeline's table (bench/evaluation/perturbation.py)
PROJECT = Path(__file__).resolve().parent.parent
Model = TypeVar("Model", bound=BaseModel)
Factory = TypeVar("Factory", bound=Callable[..., Any])


class Table(BaseModel):
    """A table of bench.toml: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShapesSettings(Table):
    """[data.shapes]: the embedded data. Another seed is another data set (another fingerprint)."""

    seed: int = Field(2026, ge=0, le=MOST_SEED)
    train: int = Field(6000, ge=1, description="scenes of shapes-train")


class DataSettings(Table):
    """[data]: where things lie. Relative paths start at the file that names them."""

    home: str = Field("", description="prepared data and weights; BENCH_HOME wins; empty = the platform's folder")
    images: Mapping[str, str] = Field(default_factory=dict, description="data set, `coco` or `file` -> its images")
    shapes: ShapesSettings = ShapesSettings()


class RunSettings(Table):
    """[run]: how an evaluation goes."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto = float32 on CPU, bfloat16 on CUDA"
    )
    batch_size: int = Field(0, ge=0, description="scenes in a batch; 0 = 64 on a GPU, 8 on a CPU")
    decode_threads: int = Field(0, ge=0, description="that decode images ahead; 0 = all cores on a GPU, 4 on a CPU")
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description='of torch on a CPU; "auto" = the cores that other work leaves free'
    )
    seed: int = Field(0, ge=0, lt=2**63)
    deterministic: bool = False
    compile: bool = Field(False, description="compile the networks with torch.compile")
    channels_last: bool = Field(False, description="convolutions keep an image's channels together in memory")
    offline: bool = False
    isolate: bool = Field(False, description="run the pipeline in a process of its own")
    image_timeout_s: float = Field(60, gt=0, description="isolated: for an image; 20 times as many to load")
    memory_gb: float = Field(0, ge=0, description="isolated: GiB that it may take; 0 = 90 % of the machine's")
    rank_timeout_s: float = Field(600, gt=0, description="how long rank 0 waits for a silent rank")

    @property
    def acceleration(self) -> Acceleration:
        """Return what is applied to every network."""
        return Acceleration(self.compile, self.channels_last, self.dtype)


class EvaluationSettings(Table):
    """[evaluation]: statistics of a score."""

    draws: int = Field(10_000, ge=100, description="bootstrap draws over images")
    seed: int = Field(0, ge=0, le=MOST_SEED)
    confidence: float = Field(0.95, gt=0.5, lt=1)


class Settings(Table):
    """Everything in force: `pipelines` and `train` by pipeline, `label` by source of pseudo-labels, as written."""

    data: DataSettings = DataSettings()
    run: RunSettings = RunSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    pipelines: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    train: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    label: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    limits: Limits = Limits()
    results: str = "results"

    @field_validator("pipelines", "train", "label")
    @classmethod
    def _tables_of_datasets(cls, tables: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        for name, table in tables.items():
            on = table.get("on", {})
            if not isinstance(on, Mapping) or not all(isinstance(inner, Mapping) for inner in on.values()):
                raise ValueError(f"{name}.on should hold a table for a data set, such as on.refcoco = {{ ... }}")
        return tables


@dataclass(frozen=True)
class Resolved:
    """Settings in force, and for each dotted key its layer: "bench.toml", a user's file or "flag"; none = the code."""

    settings: Settings
    origin: Mapping[str, str] = field(default_factory=dict)
    folder: Path = PROJECT

    @property
    def home(self) -> Path:
        """The cache folder: BENCH_HOME, else [data] home, else the platform's data folder."""
        named = os.environ.get("BENCH_HOME") or self.settings.data.home
        return Path(named).expanduser().resolve() if named else platform_home()

    def table(self, section: Literal["pipelines", "train", "label"], name: str, dataset: str) -> dict[str, Any]:
        """Lay [SECTION.NAME.on.DATASET] over [SECTION.NAME]; empty where bench.toml has neither."""
        tables: Mapping[str, Mapping[str, Any]] = getattr(self.settings, section)
        return _for_dataset(tables.get(name, {}), dataset)


def _for_dataset(table: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    rest = dict(table)
    per_dataset = rest.pop("on", {})
    return merged(rest, per_dataset.get(dataset, {}))


def platform_home() -> Path:
    """Find the platform's folder for this program's data."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", "~")).expanduser() / "grounding-bench"
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "grounding-bench"


def load_settings(config: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Resolved:
    """Load the settings in force. `flags` maps dotted keys ("run.batch_size") to values; None means "not given".

    With `run.offline` libraries fetch nothing from now on. Raises SettingsError naming the file and the key, with the
    nearest known key.
    """
    shipped = default_file()
    layers = {"bench.toml": read_toml(shipped)} if shipped else {}
    user = _user_file(Path(config) if config else None)
    if user is not None and (shipped is None or user.resolve() != shipped.resolve()):
        layers[str(user)] = anchored(read_toml(user), user.parent)
    layers["flag"] = nested({key: value for key, value in (flags or {}).items() if value is not None})

    table: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, layer in layers.items():
        # Each layer is parsed alone first, so that an error names its file.
        parse_table(Settings, layer, {"bench.toml": str(shipped), "flag": "flags"}.get(name, name))
        table = merged(table, layer)
        origin.update(dict.fromkeys(flattened(layer), name))
    resolved = Resolved(parse_table(Settings, table, "settings"), origin)
    enforce(resolved.settings.limits)
    if resolved.settings.run.offline:
        _go_offline()
    return resolved


def _go_offline() -> None:
    """Keep the libraries that fetch weights from asking the network."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # They look at these variables when they are imported; the hub's client may be already.
    if constants := sys.modules.get("huggingface_hub.constants"):
        vars(constants)["HF_HUB_OFFLINE"] = True


def default_file() -> Path | None:
    """Find the project's own bench.toml: beside the packages in a checkout, inside `bench/` in a wheel."""
    return next((p for p in (PROJECT / "bench.toml", PROJECT / "bench" / "default.toml") if p.is_file()), None)


def shipped_options(pipeline: str, dataset: str) -> dict[str, Any]:
    """Read a pipeline's options for a data set from the project's own bench.toml alone."""
    return _for_dataset(_shipped().get(pipeline, {}), dataset)


@cache
def _shipped() -> dict[str, Any]:
    file = default_file()
    pipelines: dict[str, Any] = read_toml(file).get("pipelines", {}) if file else {}
    return pipelines


def parse_table(model: type[Model], table: Mapping[str, Any], where: str) -> Model:
    """Parse a table. Raises SettingsError naming `where`, the key, what was expected and the nearest known key."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        lines, unknown = [], []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                unknown.append(key)
                near = nearest(str(problem["loc"][-1]), _known_keys(model, problem["loc"][:-1]))
                lines.append(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            else:
                lines.append(f"{where}: {key}: {problem['msg']} (got {short(problem['input'])})")
        raise SettingsError("\n".join(lines), unknown) from None


def takes(table: type[BaseModel] | Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Factory], Factory]:
    """Mark a factory with the class of its table, as its attribute `table` (bench/tables.py).

    The tasks of several parts are marked with a function: the pipeline's options -> part -> class.
    """

    def mark(factory: Factory) -> Factory:
        vars(factory)["table"] = table
        return factory

    return mark


def weights_named(table: Any) -> Iterator[tuple[str, str]]:
    """List (weights, the model they are for) of a table of options, however deep."""
    if not isinstance(table, Mapping):
        return
    for key, value in table.items():
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if key in WEIGHTS and isinstance(inner, str) and inner:
                yield inner, str(table.get("model", ""))
            else:
                yield from weights_named(inner)


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _user_file(config: Path | None) -> Path | None:
    named = config or (Path(os.environ["BENCH_CONFIG"]) if os.environ.get("BENCH_CONFIG") else None)
    if named is not None:
        if not named.exists():
            raise SettingsError(f"{named}: no such settings file")
        return named
    return next(
        (path for folder in (Path.cwd(), *Path.cwd().parents) if (path := folder / "bench.toml").is_file()), None
    )
