"""Data-parallel training: each process has a copy of the module, and torch's DDP averages the gradients over them.

Generator and discriminator have a reducer each, since each backward pass reaches the parameters of one of them: a
reducer of both would send, at each pass, the gradients of the other one too.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vistok.distributed.collectives import broadcast_from_rank_zero
from vistok.training.module import LitTokenizer

# In errors of DDP: a pass reached fewer parameters than the first one, or more.
CHANGED = ("Expected to have finished reduction in the prior iteration", "Your training graph has changed")


class ReplicatedStrategy(DDPStrategy):
    """Averages the gradients of each optimizer at the last batch of an update, while the backward pass still runs.

    Args:
        timeout: Time after which a process that waits for the others stops.
        find_unused_parameters: True searches, in each update, for parameters that the backward pass does not reach, as
            passes that reach different ones require. False takes the parameters of the first pass for those of all.
            None searches only if ``is_steady`` does not hold.
        compress: True sends gradients in bfloat16: half the bytes, and their mean is rounded to 8 bits.
    """

    def __init__(self, timeout: timedelta, find_unused_parameters: bool | None = None, compress: bool = False):
        super().__init__(timeout=timeout)
        self.find_unused_parameters, self.compress = find_unused_parameters, compress

    def configure_ddp(self) -> None:
        """Copies the state of rank 0 to all ranks, and gives the module its reducers."""
        lit = self.lightning_module
        assert isinstance(lit, LitTokenizer)
        with torch.no_grad():
            for tensor in [*lit.parameters(), *lit.buffers()]:
                tensor.copy_(broadcast_from_rank_zero(tensor.detach().contiguous()))
        search = self.find_unused_parameters
        search = not is_steady(lit) if search is None else search
        lit.reducers = [self._reducer(own, search) if own else nn.Identity() for own in lit.trained]

    def _reducer(self, parameters: Sequence[nn.Parameter], search: bool) -> DistributedDataParallel:
        reducer = DistributedDataParallel(
            Passed(parameters),
            init_sync=False,
            broadcast_buffers=False,  # sending them would hang where ranks have unlike numbers of batches
            find_unused_parameters=search,
            static_graph=not search,
            gradient_as_bucket_view=True,
        )
        if self.compress:
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

            reducer.register_comm_hook(None, bf16_compress_hook)
        return reducer

    def on_exception(self, exception: BaseException) -> None:
        if any(message in str(exception) for message in CHANGED):
            exception.args = (
                "a backward pass reached other parameters than the first one did: "
                "trainer.strategy.find_unused_parameters=true searches for them in each update",
            )

    def teardown(self) -> None:
        lit = self.lightning_module
        if isinstance(lit, LitTokenizer):
            lit.reducers = []
        super().teardown()


class Passed(nn.Module):
    """Module that owns parameters and returns its input, a loss: DDP reduces the gradients of its backward pass."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__()
        self.trained = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def is_steady(lit: LitTokenizer) -> bool:
    """True if each backward pass is known to reach the same parameters, which need not be all.

    The adversary's start and R1 change no set: the generator gets every gradient through the decoder's output, the
    latent or a layer with a loss, and R1 differentiates the same discriminator. Any module may declare
    ``steady_gradients``. Of those that do not, the parts of this package and torch's own layers are steady, and others
    are not.
    """
    groups = (lit.image_losses, lit.latent_losses, lit.output_losses, lit.layer_losses)
    losses = [loss for group in groups for loss in group.values()]
    discriminating = (lit.adversary.discriminator, *lit.adversary.regularizers.values()) if lit.adversary else ()
    parts = [
        p for p in (*lit.tokenizer.children(), *losses, *discriminating) if any(w.requires_grad for w in p.parameters())
    ]
    known = all(getattr(p, "steady_gradients", type(p).__module__.split(".")[0] in ("vistok", "torch")) for p in parts)
    return known and all(getattr(module, "steady_gradients", True) for part in parts for module in part.modules())
