"""Imports made cheap: open_clip and torchvision without the packages that few of their models use.

A command that runs CLIP spends more time on imports than on a hundred images. torchvision imports torch's compiler
for one function of `roi_align`; open_clip imports timm and transformers, which it does without where they are missing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, reload
from types import ModuleType
from typing import Any

OPTIONAL = ("timm", "transformers")  # packages that open_clip does without
# The module that torchvision imports torch's compiler for, and the function that it takes from there.
COMPILER, FUNCTION = "torch._dynamo.utils", "is_compile_supported"


@contextmanager
def paused_collector() -> Iterator[None]:
    """Import without collecting garbage, which is looked for a hundred times and never there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def lean() -> Iterator[None]:
    """Import open_clip or torchvision without timm, transformers and torch's compiler.

    What has been imported before stays in use. `complete` brings timm and transformers to open_clip later; torch's
    compiler comes with the first call that needs it, and at once where torchvision wants more of it than one function.
    """
    stand_ins: dict[str, Any] = {name: None for name in OPTIONAL if name not in sys.modules}
    if COMPILER not in sys.modules:
        stand_ins[COMPILER] = _deferred()
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _deferred() -> ModuleType:
    """Make a module in the compiler's place, whose function imports it when it is called."""
    module = ModuleType(COMPILER)

    def real() -> Any:
        if sys.modules.get(COMPILER) is module:
            del sys.modules[COMPILER]
        return import_module(COMPILER)

    def later(*arguments: Any) -> Any:
        return getattr(real(), FUNCTION)(*arguments)

    def attribute(name: str) -> Any:
        if name.startswith("__"):  # the import system looks for __path__
            raise AttributeError(name)
        return later if name == FUNCTION else getattr(real(), name)

    vars(module)["__getattr__"] = attribute
    return module


def complete(open_clip: Any, model: str) -> None:
    """Import the package that a model of open_clip needs for its towers, where `lean` left it out."""
    config = open_clip.get_model_config(model) or {}
    for module, package, tower, key in (
        (open_clip.timm_model, "timm", "vision_cfg", "timm_model_name"),
        (open_clip.hf_model, "transformers", "text_cfg", "hf_model_name"),
    ):
        if config.get(tower, {}).get(key) and getattr(module, package) is None:
            reload(module)  # its classes' methods find the package in the module that they were defined in
