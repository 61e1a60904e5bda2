"""Guards for the loop: nothing waits for the device, and no memory is taken in secret.

`NoSync` refuses every operation by which a tensor's value or a value-dependent shape reaches the
host. `LiveMemory` counts the bytes of the tensors alive, by their storages, after every operation:
the same number on every machine and with every allocator.
"""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten

# By name, as Python calls them: on the CPU some of these read memory without any operation.
NAMES = frozenset(
    {
        "item", "tolist", "numpy", "cpu", "equal", "allclose", "is_nonzero", "nonzero", "argwhere",
        "masked_select", "unique", "unique_consecutive", "bincount", "__bool__", "__float__",
        "__int__", "__index__", "__complex__", "__array__", "__contains__", "__nonzero__",
    }
)  # fmt: skip
# By operation, as anything written in C++ or hidden inside another function ends up.
OPERATIONS = frozenset(
    {
        _aten._local_scalar_dense, _aten.item, _aten.nonzero, _aten.masked_select, _aten.equal,
        _aten.is_nonzero, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive,
        _aten.bincount, _aten._linalg_check_errors,
    }
)  # fmt: skip
INDEXING = frozenset({_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_})


class SyncError(AssertionError):
    """Something waited for the device."""


class _Names(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in NAMES:
            raise SyncError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in OPERATIONS:
            raise SyncError(f"{packet} waits for the device")
        if packet in INDEXING and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        ):
            raise SyncError("indexing by a mask waits for the device; use torch.where")
        if packet is _aten.repeat_interleave and kwargs.get("output_size") is None:
            raise SyncError("repeat_interleave waits for the device; pass output_size")
        out = func(*args, **kwargs)
        if packet is _aten._to_copy and out.device.type == "cpu" != args[0].device.type:
            raise SyncError("a copy to the host waits for the device")
        return out


class NoSync:
    """Context in which reading a value on the host raises `SyncError`."""

    def __enter__(self) -> "NoSync":
        self._modes = (_Names(), _Operations())
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, trace)


class LiveMemory(TorchDispatchMode):
    """Context that counts the bytes of tensors made inside it and still alive.

    A tensor that comes in from outside is not counted, nor are its views. What a kernel takes and
    gives back within one operation is not seen.

    Attributes:
        peak: the most bytes alive after any operation.
        made: tensors made, in order, as (operation, bytes).
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.made: list[tuple[str, int]] = []
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._outside: dict[int, StorageWeakRef] = {}

    @property
    def now(self) -> int:
        """Bytes alive at this moment."""
        self._alive = {k: (ref, n) for k, (ref, n) in self._alive.items() if not ref.expired()}
        return sum(n for _, n in self._alive.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._outside = {k: ref for k, ref in self._outside.items() if not ref.expired()}
        before = self.now
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._alive:
                    self._outside.setdefault(storage._cdata, StorageWeakRef(storage))
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._alive and storage._cdata not in self._outside:
                    self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self.made.append((str(func.overloadpacket), storage.nbytes()))
                    before += storage.nbytes()
        self.peak = max(self.peak, before)
        return out
