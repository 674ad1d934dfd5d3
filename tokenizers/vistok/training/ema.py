"""Exponential moving average of the tokenizer's weights, for validation and export."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AveragedTokenizer(nn.Module):
    """A second tokenizer with averaged parameters: ``average ← d · average + (1 - d) · parameter``.

    It is a separate module, and weights are never swapped: it moves between devices and is saved and resumed with the
    other modules, and no checkpoint can be written in the middle of a swap. Only trained parameters are averaged.
    Buffers (codebooks learned from statistics, their counts) and frozen parameters are copied.

    Args:
        tokenizer: The tokenizer whose weights are averaged; it is copied.
        decay: d, in [0, 1).
    """

    def __init__(self, tokenizer: nn.Module, decay: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights must be in [0, 1), not {decay}")
        self.decay = decay
        self.tokenizer = copy.deepcopy(tokenizer).requires_grad_(False)

    @torch.no_grad()
    def update(self, tokenizer: nn.Module, applied: Tensor | float = 1.0) -> None:
        """Moves the average towards the weights of ``tokenizer`` by one update.

        Args:
            tokenizer: The trained tokenizer after the update.
            applied: Scalar on the device; 0 for a skipped update, which leaves the average unchanged.
        """
        trained, frozen = [], []
        for average, parameter in zip(self.tokenizer.parameters(), tokenizer.parameters(), strict=True):
            (trained if parameter.requires_grad else frozen).append((average, parameter))
        averages = [average for average, _ in trained]
        steps = torch._foreach_sub([parameter for _, parameter in trained], averages)
        torch._foreach_mul_(steps, torch.as_tensor((1 - self.decay) * applied, device=steps[0].device))
        torch._foreach_add_(averages, steps)
        for copied, original in (*frozen, *zip(self.tokenizer.buffers(), tokenizer.buffers(), strict=True)):
            copied.copy_(original)

    @torch.no_grad()
    def copy_rows(self, tokenizer: nn.Module, moved: Mapping[str, Tensor]) -> None:
        """Copies rows that were set rather than learned, such as restarted codewords.

        Args:
            tokenizer: The trained tokenizer.
            moved: Rows (n,) bool of parameters (n, ...) by name. Names of buffers are ignored: ``update`` copies them.
        """
        averages, parameters = dict(self.tokenizer.named_parameters()), dict(tokenizer.named_parameters())
        for name in moved.keys() & parameters.keys():
            average, parameter, rows = averages[name], parameters[name], moved[name]
            average.copy_(torch.where(rows.reshape(-1, *[1] * (parameter.ndim - 1)), parameter, average))
