"""Encoder and decoder in parts over all processes, with their gradients and optimizer states (torch's FSDP2).

Experimental. Everything else is whole on each process: the head, whose codebook is read outside its forward pass, the
discriminator, whose gradients are switched on and off, and the decoder's last layer, for the adaptive weight.
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
    """All processes of a run share its encoder and decoder; checkpoints are as those of other strategies.

    Args:
        timeout: A process that waits so long for the others stops.
    """

    def __init__(self, timeout: timedelta):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As an optimizer of whole parameters would give it. Every rank has to ask for it."""
        parameters = self._in_order(optimizer)
        group = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
        states = {
            i: optimizer.state[parameter] for i, parameter in enumerate(parameters) if parameter in optimizer.state
        }
        return {
            "state": {i: {name: _whole(value) for name, value in state.items()} for i, state in states.items()},
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
                own = {name: _like(value, parameters[i]) for name, value in state.items()}
                optimizer.state[parameters[i]] = own
            for group in optimizer.param_groups:
                group |= {name: value for name, value in saved["param_groups"][0].items() if name != "params"}
        return checkpoint

    def _in_order(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """An optimizer's parameters in the order of the module, whatever its groups."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [parameter for parameter in self.lightning_module.parameters() if id(parameter) in own]


def shard(tokenizer: Tokenizer, mesh: DeviceMesh) -> None:
    """Leave this process its part of encoder and decoder. They are whole while they compute."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not isinstance(tokenizer.encoder, FSDPModule):
        fully_shard(tokenizer.encoder, mesh=mesh)
        fully_shard(tokenizer.decoder, mesh=mesh, ignored_params={tokenizer.decoder.last_layer})


def gathered(tokenizer: Tokenizer, build: Callable[[], Tokenizer]) -> Tokenizer:
    """On rank 0 a whole tokenizer of the CPU with a sharded one's weights; every rank has to ask for it.

    Args:
        tokenizer: The sharded one, which the other ranks get back.
        build: Makes one of the same kind.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(tokenizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank_and_size()[0]:
        return tokenizer
    whole = build()
    whole.load_state_dict(state)
    return whole


def is_part(tensor: Tensor) -> bool:
    """Whether a parameter or gradient is this process's part of one."""
    return hasattr(tensor, "to_local")  # a DTensor's; its module takes long to import


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, or all of it where it is whole."""
    return tensor.to_local() if is_part(tensor) else tensor


def _whole(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, Tensor) and is_part(value) else value


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """A part of an optimizer's whole state, as ``parameter`` is one; a count of steps stays as it is."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    if is_part(parameter):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)


def groups(parameters: Iterable[nn.Parameter]) -> list[Any]:
    """Parameters for an optimizer: those in parts and whole ones apart, since no operation takes both."""
    parts, wholes = [], []
    for parameter in parameters:
        (parts if is_part(parameter) else wholes).append(parameter)
    return [{"params": parts}, {"params": wholes}] if parts else wholes


def average_whole(gradients: Sequence[Tensor]) -> None:
    """Average over ranks what DDP would: the gradients of parameters that each process has whole."""
    wholes = [gradient for gradient in gradients if not is_part(gradient)]
    if wholes:
        mean = mean_over_ranks(torch.cat([gradient.flatten() for gradient in wholes]))
        for gradient, part in zip(wholes, mean.split([gradient.numel() for gradient in wholes]), strict=True):
            gradient.copy_(part.view_as(gradient))


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, those in parts over all ranks."""
    wholes = nn.utils.get_total_norm([gradient for gradient in gradients if not is_part(gradient)])
    parts = [own_part(gradient) for gradient in gradients if is_part(gradient)]
    if not parts:
        return wholes
    return (wholes.square() + sum_over_ranks(nn.utils.get_total_norm(parts).square())).sqrt()


def clip(parameters: Sequence[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale gradients of a norm above ``largest`` down to it."""
    nn.utils.clip_grads_with_norm_([parameter for parameter in parameters if not is_part(parameter)], largest, norm)
    parts = [parameter for parameter in parameters if is_part(parameter) and parameter.grad is not None]
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch has it
    for parameter in parts:
        parameter.grad.to_local().mul_(factor)
