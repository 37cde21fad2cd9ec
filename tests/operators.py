"""Operators that a piece of code launches, counted."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

NOTHING = {"aten.dropout.default", "aten.detach_.default", "aten.empty.memory_format"}  # no kernel, in inference
WAITS = ("nonzero", "item", "_local_scalar_dense", "masked_select", "aten.index.", "index_put", "equal")


class Operators(TorchDispatchMode):
    """Count operators; those that only look at a tensor another way are no launches."""

    def __init__(self):
        super().__init__()
        self.launched = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        if not view and str(func) not in NOTHING:
            self.launched[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waiting(self):
        """Those that a GPU is waited for."""
        return [name for name in self.launched if any(wait in name for wait in WAITS)]
