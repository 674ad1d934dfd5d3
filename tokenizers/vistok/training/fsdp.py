"""Encoder and decoder sharded over all processes, with their gradients and optimizer states (torch's FSDP2).

Experimental. Each process holds a full copy of all other modules: the head, whose codebook is read outside its forward
pass; the discriminator, whose gradients are switched on and off; and the decoder's last layer, which the adaptive
weight needs.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from vistok.distributed.collectives import mean_over_ranks, rank_and_size, sum_over_ranks
from vistok.tokenizer import Tokenizer


class ShardedStrategy(ModelParallelStrategy):
    """Shards encoder and decoder over all processes of a run; checkpoints are the same as with other strategies.

    Args:
        timeout: Time after which a process that waits for the others stops.
    """

    def __init__(self, timeout: timedelta):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the state that an optimizer of unsharded parameters would have. A collective: every rank calls it."""
        parameters = self._in_order(optimizer)
        group = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
        states = {
            i: optimizer.state[parameter] for i, parameter in enumerate(parameters) if parameter in optimizer.state
        }
        return {
            "state": {i: {name: _unsharded(value) for name, value in state.items()} for i, state in states.items()},
            "param_groups": [group | {"params": list(range(len(parameters)))}],
        }

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        checkpoint = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True, strict=False)  # frozen losses are not saved
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            parameters = self._in_order(optimizer)
            for i, state in saved["state"].items():
                own = {name: _sharded_as(value, parameters[i]) for name, value in state.items()}
                optimizer.state[parameters[i]] = own
            for group in optimizer.param_groups:
                group |= {name: value for name, value in saved["param_groups"][0].items() if name != "params"}
        return checkpoint

    def _in_order(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Returns an optimizer's parameters in the order of the module, regardless of its groups."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [parameter for parameter in self.lightning_module.parameters() if id(parameter) in own]


def shard(tokenizer: Tokenizer, mesh: DeviceMesh) -> None:
    """Shards encoder and decoder over the mesh. Their parameters are gathered only while a network computes."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not isinstance(tokenizer.encoder, FSDPModule):
        fully_shard(tokenizer.encoder, mesh=mesh)
        fully_shard(tokenizer.decoder, mesh=mesh, ignored_params={tokenizer.decoder.last_layer})


def gathered(tokenizer: Tokenizer, build: Callable[[], Tokenizer]) -> Tokenizer:
    """Gathers the weights of a sharded tokenizer into a new one on the CPU of rank 0.

    This is a collective: every rank calls it.

    Args:
        tokenizer: The sharded tokenizer, which the other ranks get back.
        build: Makes an unsharded tokenizer of the same structure.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(tokenizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank_and_size()[0]:
        return tokenizer
    full = build()
    full.load_state_dict(state)
    return full


def is_sharded(tensor: Tensor) -> bool:
    """True for a parameter or gradient that is sharded over processes."""
    return hasattr(tensor, "to_local")  # an attribute of DTensor, whose module is slow to import


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, or the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def _unsharded(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, Tensor) and is_sharded(value) else value


def _sharded_as(value: Any, parameter: nn.Parameter) -> Any:
    """Shards a value of an optimizer's state like ``parameter``; a step counter is returned unchanged."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    if is_sharded(parameter):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)


def groups(parameters: Iterable[nn.Parameter]) -> list[Any]:
    """Parameters for an optimizer, sharded and unsharded ones in separate groups, since no operation mixes them."""
    shards, unsharded = [], []
    for parameter in parameters:
        (shards if is_sharded(parameter) else unsharded).append(parameter)
    return [{"params": shards}, {"params": unsharded}] if shards else unsharded


def average_unsharded(gradients: Sequence[Tensor]) -> None:
    """Averages over ranks the gradients of unsharded parameters, as DDP would."""
    unsharded = [gradient for gradient in gradients if not is_sharded(gradient)]
    if unsharded:
        mean = mean_over_ranks(torch.cat([gradient.flatten() for gradient in unsharded]))
        for gradient, part in zip(unsharded, mean.split([gradient.numel() for gradient in unsharded]), strict=True):
            gradient.copy_(part.view_as(gradient))


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm of all gradients together; sharded gradients count over all ranks."""
    unsharded = nn.utils.get_total_norm([gradient for gradient in gradients if not is_sharded(gradient)])
    shards = [local_shard(gradient) for gradient in gradients if is_sharded(gradient)]
    if not shards:
        return unsharded
    return (unsharded.square() + sum_over_ranks(nn.utils.get_total_norm(shards).square())).sqrt()


def clip(parameters: Sequence[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scales gradients down to the norm ``largest`` where their norm ``norm`` exceeds it."""
    nn.utils.clip_grads_with_norm_([parameter for parameter in parameters if not is_sharded(parameter)], largest, norm)
    shards = [parameter for parameter in parameters if is_sharded(parameter) and parameter.grad is not None]
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch has it
    for parameter in shards:
        parameter.grad.to_local().mul_(factor)
