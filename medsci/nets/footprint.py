"""How much memory a network needs for a volume, found without the memory and without the time.

The network is built and run on tensors that have a shape and no data. After every operation the
bytes of the tensors alive are counted, so that skip connections, copies and what backward keeps are
in the count because they are in the run. Added is what CPU convolutions take for themselves: in the
plain layout the input and the output once more, in blocks of 16 channels.
"""

__all__ = ["Footprint", "footprint"]

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medsci.nets.checkpointing import checkpoint_activations
from medsci.nets.sliced import slice_activations
from medsci.nets.unet import build_network

if TYPE_CHECKING:
    from medsci.nets.config import NetworkConfig

_aten = torch.ops.aten
_BLOCK = 16  # channels to a block of oneDNN's float32 layout
_MODES = ("plain", "sliced", "checkpointed")


@final
@dataclass(frozen=True)
class Footprint:
    """Bytes of one evaluation of a network, or of one training step.

    Args:
        weights: parameters and buffers in float32.
        activations: the most that is alive beside the weights and the input at any moment, with
            gradients of the weights if it was a training step.
        saved: alive between forward and backward; 0 without training.
    """

    weights: int
    activations: int
    saved: int = 0


def footprint(
    config: "NetworkConfig",
    size: Sequence[int],
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    mode: str = "plain",
    training: bool = False,
) -> Footprint:
    """Return what a network takes for a batch of volumes of `size` on a CPU.

    Args:
        config: describes the network.
        size: of the volume, one number per spatial dimension.
        batch: volumes in one evaluation.
        dtype: number format of the arithmetic; bfloat16 means autocast, as `Denoiser` runs it.
        mode: `plain`, `sliced` (see `slice_activations`) or `checkpointed` (see
            `checkpoint_activations`).
        training: forward and backward of a squared error rather than forward alone.

    Raises:
        ValueError: the size does not fit the network, or the mode is unknown.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if len(size) != config.spatial_dims:
        raise ValueError(
            f"size {tuple(size)} came for a network of {config.spatial_dims} spatial dimensions"
        )
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r} came; choose one of {', '.join(_MODES)}")
    with FakeTensorMode():
        network = build_network(config).train(training).requires_grad_(training)
        if mode != "plain":
            (slice_activations if mode == "sliced" else checkpoint_activations)(network)
        x = torch.empty(batch, config.in_channels, *size)
        low = torch.autocast("cpu", dtype) if dtype == torch.bfloat16 else nullcontext()
        saved = 0
        with torch.set_grad_enabled(training), _Alive() as alive:
            with low:
                out = _run(network, x)
            if training:
                loss = out.float().square().mean()
                del out
                saved = alive.now()
                loss.backward()
        weights = sum(value.nbytes for value in network.state_dict().values())
    return Footprint(weights=weights, activations=alive.peak, saved=saved)


def _run(network: nn.Module, x: Tensor) -> Tensor:
    """Return the output for a state as `Denoiser` passes it under autocast."""
    if torch.is_autocast_enabled("cpu") and x.ndim in (4, 5):
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        x = x.contiguous(memory_format=layout)
    known: dict[str, Any] = {}
    config: Any = network.config
    if getattr(config, "context_channels", 0):
        known["context"] = torch.empty(len(x), 1, config.context_channels)
    if getattr(config, "latent_dim", 0):
        known["latent"] = torch.empty(len(x), config.latent_dim)
    if config.n_labels:
        known["label"] = torch.zeros(len(x), dtype=torch.int64)
    out: Tensor = network(x, torch.zeros(len(x)), **known)
    return out


class _Alive(TorchDispatchMode):
    """Count the bytes of the tensors made inside and still alive, after every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._most = 0  # no less than what is alive: freed bytes are taken off only when it matters

    def now(self) -> int:
        """Return the bytes alive."""
        self._made = {k: (ref, n) for k, (ref, n) in self._made.items() if not ref.expired()}
        self._most = sum(n for _, n in self._made.values())
        return self._most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = _tensors(out)
        extra = _inside(func, args, results)
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        fresh = {t.untyped_storage()._cdata: t.untyped_storage() for t in results}
        fresh = {k: v for k, v in fresh.items() if k not in given}
        made = sum(storage.nbytes() for storage in fresh.values())
        most = max(made, extra)
        if self._most + most > self.peak:
            self.peak = max(self.peak, self.now() + most)
        self._made |= {k: (StorageWeakRef(v), v.nbytes()) for k, v in fresh.items()}
        self._most += made
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _inside(func: Any, args: Any, results: list[Tensor]) -> int:
    """Return the most bytes that an operation has of its own at any moment, its result included."""
    packet = func.overloadpacket
    if packet not in (_aten.convolution, _aten.convolution_backward):
        return 0
    ours = sum(tensor.nbytes for tensor in results)
    forward = packet is _aten.convolution
    ends = (args[0], results[0]) if forward else (args[0], args[1])  # gradient and input
    weight = args[1] if forward else args[2]
    if set(weight.shape[2:]) == {1} or not ends[1].is_contiguous():
        return ours
    blocked = [_blocked(end) for end in ends]
    return max(sum(blocked), blocked[1] + ours) if forward else ours + sum(blocked)


def _blocked(x: Tensor) -> int:
    """Return the bytes of a field whose channels are filled up to whole blocks."""
    channels = x.shape[1]
    return int(x.nbytes // channels * (-(-channels // _BLOCK) * _BLOCK))
