"""Sharding networks over processes (fully sharded data parallel)."""

__all__ = ["shard", "whole_state"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

_LARGE = 100_000  # parameters; smaller modules travel with the one around them


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the parameters of `net` over the processes of `mesh`, in place.

    Blocks of a network are gathered one after the other as they are needed, so that no process
    ever holds more than one of them beside its own share.
    """
    from torch.distributed.fsdp import fully_shard

    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()  # shards are cut along the first axis
    data_mesh = mesh["data_parallel"] if mesh.mesh_dim_names else mesh
    for module in net.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                if sum(p.numel() for p in block.parameters()) >= _LARGE:
                    fully_shard(block, mesh=data_mesh, reshard_after_forward=True)
    fully_shard(net, mesh=data_mesh, reshard_after_forward=True)  # the root too: it is averaged


def whole_state(net: nn.Module) -> Mapping[str, Tensor]:
    """Return the unsharded state of a sharded network on the host; all processes must call."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(net, options=options)
    return state
