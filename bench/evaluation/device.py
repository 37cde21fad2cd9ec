"""Device and number type of a run, resolved before a pipeline is built; torch is imported only for CUDA."""

from __future__ import annotations

import os
import random
import sys

from bench.cores import OthersLoad as OthersLoad
from bench.cores import compute_with as compute_with
from bench.cores import usable_cores as usable_cores
from bench.errors import DeviceError, MissingPackage
from bench.evaluation.progress import message
from bench.runs.provenance import ask_driver, driver_version
from bench.runs.shards import from_environment

DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


def loading(name: str) -> None:
    """Announce on the first rank what takes seconds to load, before the first import of its packages."""
    if not from_environment().index:
        message(f"loading {name} ...")


def resolve_device(name: str, local_rank: int | None = None) -> str:
    """Resolve auto, cpu, cuda or cuda:1 to "cpu" or "cuda:N"; `local_rank` spreads a machine's ranks over its GPUs.

    Raises DeviceError when a GPU is required and torch has none, with torch's reason and what to install.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdecimal())):
        raise DeviceError(f"no device is called {name!r}; known: auto, cpu, cuda, cuda:N")
    if kind == "cpu" or (kind == "auto" and not _has_driver()):
        return "cpu"
    gpus = _gpus(required=kind == "cuda")
    if gpus == 0:
        if kind == "auto":
            return "cpu"
        raise DeviceError(f"--device {name}: {_why_no_gpu()}")
    index = int(number) if number else (local_rank or 0) % gpus
    if index >= gpus:
        raise DeviceError(f"--device {name}: torch sees {gpus} GPU(s), numbered from 0; take cuda:0 to cuda:{gpus - 1}")
    return f"cuda:{index}"


def resolve_dtype(dtype: str, device: str) -> str:
    """Resolve "auto": float32 on a CPU, bfloat16 on CUDA."""
    return DTYPES[device.partition(":")[0]] if dtype == "auto" else dtype


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and, where it is loaded, torch with all its devices."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)


def make_deterministic() -> None:
    """Make torch use deterministic algorithms only, in full float32; an operation that has none raises."""
    # cuBLAS reads this variable at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def use_device(device: str) -> None:
    """Make a GPU the process's own, so that libraries mean it by a bare "cuda"."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)


def _has_driver() -> bool:
    """Tell whether there is an NVIDIA driver with a GPU, without torch, whose import takes seconds."""
    return bool(ask_driver(lambda nvml: nvml.nvmlDeviceGetCount()))


def _gpus(required: bool) -> int:
    if "torch" not in sys.modules:
        loading("torch")
    try:
        import torch
    except ModuleNotFoundError:
        if required:
            raise MissingPackage("--device cuda needs torch, which is not installed: pip install torch") from None
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _why_no_gpu() -> str:
    import torch

    built, driver = torch.version.cuda, driver_version()
    if built is None:
        return (
            f"torch {torch.__version__} is a wheel without CUDA; install the one for your driver (pytorch.org, "
            "'Start locally', names it), or use --device cpu"
        )
    if driver is None:
        return (
            f"torch {torch.__version__} (a wheel for CUDA {built}) sees no GPU, and no NVIDIA driver is there; "
            "install one, or use --device cpu"
        )
    return (
        f"torch {torch.__version__} is built for CUDA {built} but sees no GPU (driver {driver}, CUDA_VISIBLE_DEVICES="
        f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); install a wheel for this driver, or use --device cpu"
    )


def visible_gpus(device: str) -> list[str]:
    """List GPUs that processes may share out, as in CUDA_VISIBLE_DEVICES; none for "cpu" or "cuda:1"."""
    if device not in ("auto", "cuda"):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [part for part in named.split(",") if part]
    return [str(index) for index in range(ask_driver(lambda nvml: nvml.nvmlDeviceGetCount()) or 0)]
