"""A moving average of the tokenizer's weights, for validation and export."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AveragedTokenizer(nn.Module):
    """A second tokenizer whose parameters follow the first one's: ``average ← d · average + (1 - d) · parameter``.

    It is a module beside the trained one and nothing is swapped: it moves between devices, is saved and resumed with
    the rest, and no checkpoint can catch it half-way. Only trained parameters are averaged; buffers (codebooks learned
    by statistics, their counts) and frozen parameters are copied.

    Args:
        tokenizer: The tokenizer to follow; copied.
        decay: d, in [0, 1).
    """

    def __init__(self, tokenizer: nn.Module, decay: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights must be in [0, 1), not {decay}")
        self.decay = decay
        self.tokenizer = copy.deepcopy(tokenizer).requires_grad_(False)

    @torch.no_grad()
    def update(self, tokenizer: nn.Module, made: Tensor | float = 1.0) -> None:
        """Follow ``tokenizer`` by one update.

        Args:
            tokenizer: What it has become.
            made: 0 for an update that was left out: the average stays as it is. A scalar on the device.
        """
        trained, frozen = [], []
        for average, parameter in zip(self.tokenizer.parameters(), tokenizer.parameters(), strict=True):
            (trained if parameter.requires_grad else frozen).append((average, parameter))
        averages = [average for average, _ in trained]
        steps = torch._foreach_sub([parameter for _, parameter in trained], averages)
        torch._foreach_mul_(steps, torch.as_tensor((1 - self.decay) * made, device=steps[0].device))
        torch._foreach_add_(averages, steps)
        for copied, original in (*frozen, *zip(self.tokenizer.buffers(), tokenizer.buffers(), strict=True)):
            copied.copy_(original)

    @torch.no_grad()
    def copy_rows(self, tokenizer: nn.Module, moved: Mapping[str, Tensor]) -> None:
        """Take over rows that were set, not learned, such as restarted codewords.

        Args:
            tokenizer: Where from.
            moved: Rows (n,) bool of parameters (n, ...) by name; of buffers, which are copied anyway, nothing is done.
        """
        averages, parameters = dict(self.tokenizer.named_parameters()), dict(tokenizer.named_parameters())
        for name in moved.keys() & parameters.keys():
            average, parameter, rows = averages[name], parameters[name], moved[name]
            average.copy_(torch.where(rows.reshape(-1, *[1] * (parameter.ndim - 1)), parameter, average))
