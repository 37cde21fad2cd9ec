"""Provenance of a number: command, code, packages and machine; no secrets, no host name."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.cores import usable_cores
from bench.inputs import as_utf8
from bench.settings import PROJECT

OUR_CODE = ("bench/", "pipelines/", "clipvg/")
PACKAGES = (
    "accelerate", "grounding-bench", "huggingface_hub", "numpy", "open_clip_torch", "pillow", "pycocotools", "pydantic",
    "safetensors", "timm", "torch", "torchvision", "transformers", "ultralytics",
)  # fmt: skip

_TOKEN = re.compile(r"\b(hf_|ghp_|gho_|github_pat_|glpat-|sk-|xox[abp]-|AKIA)[A-Za-z0-9_\-]{8,}")
_ASSIGNED = re.compile(r"((?:^|[-_.?&:])(?:api[-_]?key|key|token|secret|password|passwd|pwd)=)[^&\s]+", re.IGNORECASE)
_FLAG = re.compile(r"^--?[\w.-]*(api[-_]?key|token|secret|password)$", re.IGNORECASE)
_IN_URL = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")


def redacted(argv: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the command line for publication: the program's name only, the home folder as ~, secrets as ***."""
    argv = [as_utf8(word) for word in (sys.argv if argv is None else argv)]
    out = [Path(argv[0]).name] if argv else []
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if out == ["__main__.py"] and module is not None:  # a folder that is run by its name
        out = ["python", "-m", module.name.removesuffix(".__main__")]
    hide = False
    for word in argv[1:]:
        out.append("***" if hide else _redact(word))
        hide = bool(_FLAG.match(word))
    return tuple(out)


def _redact(word: str) -> str:
    word = _ASSIGNED.sub(r"\1***", _TOKEN.sub("***", word))
    word = _IN_URL.sub(r"\1***@", word)
    home = str(Path.home())
    return word.replace(home + os.sep, "~" + os.sep) if len(home) > 1 else word


def git_state(folder: Path = PROJECT) -> dict[str, Any]:
    """Return {"commit", "dirty"} of the checkout at `folder`; both None without git or outside a checkout.

    Dirty are changed tracked files and new files among the code; results/ is what runs themselves write.
    """
    unknown = {"commit": None, "dirty": None}
    top = _git(folder, "rev-parse", "--show-toplevel")
    # An environment may lie in somebody else's checkout, whose commit is not ours.
    if top is None or Path(top.strip()).resolve() != folder.resolve():
        return unknown
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", ".", ":(exclude)results")
    if commit is None or status is None:
        return unknown
    changed = [line for line in status.splitlines() if line[:2] != "??" or line[3:].strip('"').startswith(OUR_CODE)]
    return {"commit": commit.strip(), "dirty": bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # do not take the index lock from a git command at work
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True, env=env
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def environment(device: str, seed: int, deterministic: bool) -> dict[str, Any]:
    """Collect interpreter, packages, processor, seeds and, on CUDA, the GPU with its driver and numeric flags."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages(),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "seeds": {"python": seed, "numpy": seed, "torch": seed},
        "deterministic": deterministic,
    }
    if "torch" in sys.modules:
        facts["torch"] = _torch_facts()
    if device.startswith("cuda"):
        facts["gpu"] = _gpu_facts(device)
    return facts


def packages() -> dict[str, str]:
    """List installed versions of the packages that can move a number; nothing is imported."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def threads() -> tuple[int, int]:
    """Count the threads torch computes with on the CPU, and the cores this process may use."""
    import torch

    return torch.get_num_threads(), usable_cores()


def _torch_facts() -> dict[str, Any]:
    import torch

    used, cores = threads()
    return {
        "threads": used,
        "usable_cores": cores,
        "tf32_matmul": bool(torch.backends.cuda.matmul.allow_tf32),
        "tf32_cudnn": bool(torch.backends.cudnn.allow_tf32),
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "deterministic_algorithms": bool(torch.are_deterministic_algorithms_enabled()),
    }


def _gpu_facts(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_mb": round(properties.total_memory / 2**20),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver_version(),
        "visible": torch.cuda.device_count(),
    }


def driver_version() -> str | None:
    """Return the NVIDIA driver's version; None where there is no driver."""
    version = ask_driver(lambda nvml: nvml.nvmlSystemGetDriverVersion())
    return version.decode() if isinstance(version, bytes) else version


def ask_driver(question: Callable[[Any], Any]) -> Any:
    """Ask the NVIDIA driver through pynvml, without torch; None where there is none or it has no answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return question(pynvml)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Hash settings as canonical JSON (sha256): the order of keys does not matter."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
