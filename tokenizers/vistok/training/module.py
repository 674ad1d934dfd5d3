"""Training and validation steps of a tokenizer."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vistok.data.batches import Batch
from vistok.distributed.collectives import averaged_when, means_over_ranks
from vistok.images.ranges import to_uint8
from vistok.images.rgb_view import RGBView
from vistok.losses.adversarial import Adversary, DiscriminatorResult, GeneratorResult
from vistok.metrics import ReconstructionMetrics, psnr
from vistok.pretrained import FrozenNetwork
from vistok.quantizers import Context
from vistok.tokenizer import Tokenizer
from vistok.training import fsdp
from vistok.training.balance import BalancedBackward
from vistok.training.ema import AveragedTokenizer
from vistok.training.layer_features import LayerFeatures
from vistok.training.schedules import Schedule
from vistok.training.updates import Contributions, Decisions, Outcome, match_layouts, step, undone_unless

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class LitTokenizer(pl.LightningModule):
    """Trains a tokenizer on batches of images (b, c, H, W) in [-1, 1], given as a tensor or as a ``Batch`` with a mask.

    One update is one step of the generator's optimizer (tokenizer and losses with parameters), one step of the
    discriminator's optimizer once the adversary has started, and one ``quantizer.update``. All of it is skipped, on all
    ranks, where a loss term or a gradient is not finite. The device decides this, and the host reads the decision at
    logging intervals, validations and checkpoints; until then ``updates`` counts the update as applied. With an
    optimizer other than torch's fused ones the host waits for the device in each update. Lightning's ``global_step``
    counts the steps of both optimizers; schedules, start steps and logs count ``updates``.

    Args:
        tokenizer: The tokenizer to train.
        image_losses: Losses ``loss(reconstruction, images)`` by name. A loss with an argument ``mask`` also gets the
            mask of the batch, (b, 1, H, W) bool or None; the same holds for output losses.
        loss_weights: Weight of every term by name: terms of the head, of image, output, latent and layer losses, and
            with an adversary ``adversarial``, ``discriminator`` and its regularizers.
        optimizer: Function from parameters to an optimizer; it makes those of the generator and the discriminator.
        schedule: Factor of both learning rates for each update.
        adversary: Discriminator and its losses; None trains without adversarial loss.
        latent_losses: Losses ``loss(latent, images)`` by name.
        layer_losses: Losses ``loss(feature, images)`` by name, on the output of a layer of the tokenizer that the
            loss's attribute ``layer`` names, such as ``decoder.transformer.blocks.2``. Layers behind it get no
            gradient of the loss.
        output_losses: Losses ``loss(output, images)`` by name, on the decoder's output before the pixel map, such as
            ``LogitLaplace``. Like the image losses they enter the adaptive adversarial weight.
        ema_decay: Decay in [0, 1) of the average of the weights that is validated and exported; None uses the weights
            themselves.
        clip: Largest gradient norm of each of the two optimizers; None does not clip.
        accumulate: Batches in one update.
        view: Channels that frozen networks look at.

    Raises:
        ValueError: A term has no weight, or a weight no term.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_losses: Mapping[str, nn.Module],
        loss_weights: Mapping[str, float],
        optimizer: MakeOptimizer,
        schedule: Schedule,
        adversary: Adversary | None = None,
        latent_losses: Mapping[str, nn.Module] | None = None,
        output_losses: Mapping[str, nn.Module] | None = None,
        ema_decay: float | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        view: RGBView = RGBView(),
        layer_losses: Mapping[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.strict_loading = False  # frozen losses are not saved; training/run checks the keys beforehand
        self.tokenizer = tokenizer
        tokenizer.quantizer.expect_updates()
        self.image_losses = nn.ModuleDict(image_losses)
        self.latent_losses = nn.ModuleDict(latent_losses or {})
        self.output_losses = nn.ModuleDict(output_losses or {})
        self.layer_losses = nn.ModuleDict(layer_losses or {})
        self.adversary, self.view = adversary, view
        for name, network in self.named_modules():
            if isinstance(network, FrozenNetwork):
                if not view.exists:
                    raise ValueError(
                        f"{name} ({type(network).__name__}) looks at red, green and blue: data.rgb_bands=[R, G, B] "
                        f"chooses them from data.channels={view.channels}; loss=l1 has no such network"
                    )
                network.view = view
        self.loss_weights = dict(loss_weights)
        self.masked = [
            name for losses in (self.image_losses, self.output_losses) for name in losses_with_argument(losses, "mask")
        ]
        self.unused = tuple(name for name, weight in self.loss_weights.items() if not weight)
        self.make_optimizer = optimizer
        self.schedule, self.clip, self.accumulate = schedule, clip, accumulate
        self.average = None if ema_decay is None else AveragedTokenizer(tokenizer, ema_decay)
        self.features = LayerFeatures(tokenizer, dict(self.layer_losses.items()))  # after the copy: it has no hooks
        self.metrics = self._fresh_metrics()
        self.updates = 0
        self.batches = 0
        self.logged: set[str] = set()  # names of the values that this batch logged; Lightning keeps older values too
        self._decisions = Decisions()
        self._outcomes: list[Outcome] = []  # read from the device, not yet taken by a callback
        self._contributions = Contributions()
        self._random_state: dict[str, Tensor] = {}  # of a resumed run, until its first batch
        self._ahead = 0  # updates in the count that are known to be skipped: see on_load_checkpoint
        self._folded: list[Tokenizer] = []  # the tokenizer that validation runs; in a list, so that it is no submodule
        self.reducers: Sequence[nn.Module] = []  # with trainer=ddp one for each optimizer: see data_parallel.py

        terms = {*tokenizer.quantizer.loss_names, *self.pixel_losses, *self.latent_losses, *self.layer_losses}
        terms |= set(adversary.loss_names) if adversary else set()
        if terms != set(self.loss_weights):
            raise ValueError(
                "every loss term needs a weight and every weight a term: "
                f"without a weight: {sorted(terms - set(self.loss_weights)) or 'none'}; "
                f"without a term: {sorted(set(self.loss_weights) - terms) or 'none'}"
            )

    @property
    def evaluated(self) -> Tokenizer:
        """Tokenizer that is validated and exported."""
        return self.tokenizer if self.average is None else self.average.tokenizer

    @property
    def pixel_losses(self) -> tuple[str, ...]:
        """Names of all losses that compare images."""
        return (*self.image_losses, *self.output_losses)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Networks that can be accelerated, each called separately."""
        discriminator = (self.adversary.discriminator,) if self.adversary else ()
        losses = (*self.image_losses.values(), *self.latent_losses.values(), *self.layer_losses.values())
        return self.tokenizer.encoder, self.tokenizer.decoder, *discriminator, *losses

    def compare(
        self, output: Tensor, reconstruction: Tensor, images: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Computes the pixel losses of a batch by name.

        Args:
            output: Decoder's output before the pixel map.
            reconstruction: Images of ``output``, (b, c, H, W).
            images: (b, c, H, W) in [-1, 1].
            mask: (b, 1, H, W) bool, True where a pixel is known; None for all pixels.
        """
        pairs = {name: (loss, reconstruction) for name, loss in self.image_losses.items()}
        pairs |= {name: (loss, output) for name, loss in self.output_losses.items()}
        return {
            name: loss(prediction, images, mask=mask) if name in self.masked else loss(prediction, images)
            for name, (loss, prediction) in pairs.items()
        }

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # with trainer=fsdp
            fsdp.shard(self.tokenizer, self.device_mesh["data_parallel"])

    @property
    def trained(self) -> list[list[nn.Parameter]]:
        """Parameters of each optimizer: the generator's, then the discriminator's if there is one."""
        generator = [
            parameter
            for part in (self.tokenizer, self.image_losses, self.latent_losses, self.output_losses, self.layer_losses)
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        return [generator, self.adversary.trained] if self.adversary else [generator]

    def configure_optimizers(self) -> list[Optimizer]:
        generator, *discriminator = self.trained
        optimizers = [self.make_optimizer(parameters) for parameters in (fsdp.groups(generator), *discriminator)]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
                if self.device_mesh is not None and "fused" in group:
                    group["fused"] = False  # not every fused step supports sharded parameters
        return optimizers

    def on_train_start(self) -> None:
        if self.device_mesh is None:
            for optimizer in self._optimizers():  # of a resumed run
                match_layouts(optimizer)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        if self._random_state:  # not earlier: creating the loaders draws random numbers too
            torch.set_rng_state(self._random_state["cpu"])
            if self.device.type == "cuda" and "cuda" in self._random_state:
                torch.cuda.set_rng_state(self._random_state["cuda"], self.device)
            self._random_state = {}
        elif self.batches == 0:  # Lightning seeds again when it starts several processes, but not for one
            torch.manual_seed(torch.initial_seed())

    def log_dict(self, dictionary: Mapping[str, Any], *arguments: Any, **options: Any) -> None:
        self.logged |= dictionary.keys()
        super().log_dict(dictionary, *arguments, **options)

    def training_step(self, batch: Batch | Tensor, batch_idx: int) -> dict[str, Any]:
        batch = Batch.of(batch)
        images = batch.images
        self.logged = set()
        adversarial = self.adversary is not None and self.updates >= self.adversary.start

        context = Context(images=images, mask=batch.mask, progress=self.updates, unused=self.unused)
        with self.features.recorded():
            quantized = self.tokenizer.quantize(images, context=context)
            output = self.tokenizer.decoder_output(quantized.latent, images.shape[-2:], quantized.keep, context)
        balance = BalancedBackward(output, self.tokenizer.pixels.out)
        pixel_terms = self.compare(balance.detached, balance.reconstruction, images, batch.mask)
        balance.compare(weighted_sum(pixel_terms, self.loss_weights), self._loss_parameters())
        latent_terms = {name: loss(quantized.latent, images) for name, loss in self.latent_losses.items()}
        latent_terms = quantized.losses | latent_terms | self.features.terms(images)
        terms, scales, discriminated = latent_terms | pixel_terms, {}, None
        if adversarial:
            generated, scales = self._add_adversarial(balance, quantized.latent)
            terms["adversarial"] = generated.term
        self._backward(0, balance.loss() + weighted_sum(latent_terms, self.loss_weights))
        if adversarial:
            discriminated = self.adversary.discriminator_step(
                balance.reconstruction, images, self.updates, generated.logits
            )
            loss = sum(self.loss_weights[name] * term for name, term in discriminated.terms.items())
            self._backward(1, loss, inputs=self.adversary.trained)  # no gradients of the reconstruction
            terms |= discriminated.terms

        self._contributions.add(quantized.stats, terms, discriminated and discriminated.stats())
        self.batches += 1
        if self.batches % self.accumulate == 0:
            self._finish_update(adversarial)
        if self.batches % self.trainer.log_every_n_steps == 0:
            self._log(terms, scales, discriminated, balance.reconstruction, images)
        return {"codes": quantized.codes, "keep": quantized.keep}

    def _backward(self, optimizer: int, loss: Tensor, **options: Any) -> None:
        """Adds a batch's share to an optimizer's gradients; ranks average them at the last batch of the update."""
        last = (self.batches + 1) % self.accumulate == 0
        if self.reducers and not last:
            add_gradients(loss / self.accumulate, parameters_of(self._optimizers()[optimizer]))
            return
        if self.reducers:
            loss = self.reducers[optimizer](loss)
        with averaged_when(self.trainer.model, last):
            self.manual_backward(loss / self.accumulate, **options)

    def _log(
        self,
        terms: Mapping[str, Tensor],
        scales: Mapping[str, Tensor],
        discriminated: DiscriminatorResult | None,
        reconstruction: Tensor,
        images: Tensor,
    ) -> None:
        """Logs a batch. Waits for the device."""
        self.settle()
        logs = {name: term.detach() for name, term in terms.items()}
        logs |= {f"{name}_scale": scale for name, scale in scales.items()}
        logs |= discriminated.accuracy() if discriminated else {}
        logs["psnr"] = psnr(to_uint8(reconstruction.detach()), to_uint8(images)).mean()
        logs |= means_over_ranks({name: value for name, value in logs.items() if isinstance(value, Tensor)})
        logs["lr"] = self._optimizers()[0].param_groups[0]["lr"]
        self.log_dict({f"train/{name}": value for name, value in logs.items()} | {"updates": float(self.updates)})

    def _optimizers(self) -> list[Optimizer]:
        """Optimizer of the generator, then that of the discriminator if there is one."""
        optimizers = self.optimizers()  # Lightning returns a single optimizer without a list
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _loss_parameters(self) -> list[nn.Parameter]:
        """Trained parameters of the pixel losses."""
        return [p for part in (self.image_losses, self.output_losses) for p in part.parameters() if p.requires_grad]

    def _add_adversarial(self, balance: BalancedBackward, latent: Tensor) -> tuple[GeneratorResult, dict[str, Tensor]]:
        """Adds the adversarial gradient to that of the pixel losses.

        Returns:
            The adversary's result, and the factors of its term besides the weight: adaptive weight times warm-up.
        """
        if not self._contributions.terms:
            self._contributions.norms = [buffer.clone() for buffer in self.adversary.discriminator.buffers()]
        generated = self.adversary.generator_step(balance.detached, self.tokenizer.pixels.out)
        scales = {}
        if self.adversary.adaptive:
            last_layer = self.tokenizer.decoder.last_layer
            # With a frozen last layer, the latent is the last tensor that both gradients reach.
            reached = last_layer if last_layer.requires_grad else latent
            scales["adversarial"] = balance.ratio(generated.gradient, reached, self.adversary.max_weight)
        if self.adversary.warmup:
            scales["adversarial"] = scales.get("adversarial", 1.0) * self.adversary.strength(self.updates)
        balance.oppose(weighted_sum({"adversarial": generated.gradient}, self.loss_weights, scales))
        return generated, scales

    def _descend(self, optimizer: Optimizer, norm: Tensor, applied: Tensor) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(self.updates)
        if self.clip is not None:
            fsdp.clip(parameters_of(optimizer), self.clip, norm)
        step(optimizer, applied)

    def _finish_update(self, adversarial: bool) -> None:
        """Applies the update, or skips all of it if a term or a gradient on any rank is not finite.

        Args:
            adversarial: True if the discriminator takes a step too.
        """
        optimizers = self._optimizers()[: 1 + adversarial]
        gradients = [[p.grad for p in parameters_of(o) if p.grad is not None] for o in optimizers]
        if self.device_mesh is not None:
            fsdp.average_unsharded([gradient for own in gradients for gradient in own])
        norms = [fsdp.total_norm(own) for own in gradients]
        values = self._contributions.scalars()
        values |= {f"gradient norm of optimizer {i}": norm for i, norm in enumerate(norms)}
        sums = self._contributions.sums()
        applied = self._decisions.decide(values, sums)
        for optimizer, norm in zip(optimizers, norms, strict=True):
            self._descend(optimizer, norm, applied)
        self._learn(applied, sums)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self._contributions = Contributions()
        self.updates += 1
        if self.updates >= self.schedule.updates:
            self.settle()
            self.trainer.should_stop = self.updates >= self.schedule.updates

    def _learn(self, applied: Tensor, sums: Mapping[str, Tensor]) -> None:
        """Updates all state that follows the optimizers' steps: codebooks learned from statistics, averaged weights.

        Args:
            applied: 1.0 if the update is applied, 0.0 if it is skipped.
            sums: The tensors of ``Contributions.sums``, summed over all ranks.
        """
        contributions, moved = self._contributions, {}
        if contributions.stats:
            merged = {name: sums.get(f"quantizer.{name}", value) for name, value in contributions.stats.items()}
            with undone_unless(applied, self.tokenizer.quantizer):
                rows_of = self.tokenizer.quantizer.update(merged)
            moved = {f"quantizer.{name}": rows & (applied > 0) for name, rows in rows_of.items()}
        if contributions.logits:
            with undone_unless(applied, self.adversary.regularizers):
                self.adversary.update({name: sums[f"adversary.{name}"] for name in contributions.logits[0]})
            for buffer, before in zip(self.adversary.discriminator.buffers(), contributions.norms, strict=True):
                buffer.copy_(
                    torch.where(applied > 0, buffer, before)
                )  # the statistics of norms, which a batch has moved
        if self.average is not None:
            self.average.update(self.tokenizer, applied)
            self.average.copy_rows(self.tokenizer, moved)

    def settle(self) -> int:
        """Subtracts the updates that were skipped, so that ``updates`` is exact. Waits for the device.

        Returns:
            Number of skipped updates that ``updates`` had counted.
        """
        outcomes = self._decisions.read(self.updates - self._ahead - len(self._decisions))
        ahead = self._ahead + sum(bool(outcome.skipped) for outcome in outcomes)
        self.updates -= ahead
        self._ahead = 0
        self._outcomes += outcomes
        return ahead

    def not_finite(self) -> list[str]:
        """Names of the weights and statistics that are not finite on this rank. Waits for the device."""
        state = {name: tensor for name, tensor in self.saved(self.state_dict()).items() if tensor.is_floating_point()}
        flags = torch.stack([fsdp.local_shard(tensor).isfinite().all() for tensor in state.values()])
        return [name for name, finite in zip(state, flags.tolist(), strict=True) if not finite]

    def take_outcomes(self) -> list[Outcome]:
        """Returns, in order, the outcomes of updates that are known and were not returned before."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _fresh_metrics(self) -> ReconstructionMetrics:
        return ReconstructionMetrics(
            self.tokenizer.quantizer.codebook_sizes, self.tokenizer.factor, self.pixel_losses, self.tokenizer.num_tokens
        ).to(self.device)

    def on_validation_start(self) -> None:
        self.settle()
        self._folded = [self.evaluated.fold()]
        self.metrics = self._fresh_metrics()

    def validation_step(self, batch: Batch | Tensor, batch_idx: int) -> dict[str, Tensor] | None:
        batch = Batch.of(batch)
        images, context = batch.images, Context(images=batch.images, mask=batch.mask)
        if not len(images):  # none of the images could be read
            return None
        tokenizer = self._folded[0]
        codes, keep = tokenizer.to_codes(images, context)
        size = images.shape[-2:]
        output = tokenizer.decoder_output(tokenizer.lookup(codes, size, keep), size, keep, context)
        reconstruction = tokenizer.pixels.out(output)
        self.metrics.update(
            images, reconstruction, codes, keep, self.compare(output, reconstruction, images, batch.mask)
        )
        return {"reconstruction": reconstruction, "codes": codes, "keep": keep}

    def on_validation_epoch_end(self) -> None:
        values = self.metrics.gather().compute()
        self.log_dict({f"val/{name}": value.float() for name, value in values.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.settle()
        checkpoint["updates"], checkpoint["batches"] = self.updates, self.batches
        checkpoint["random_state"] = random_state(self.device)
        checkpoint["state_dict"] = self.saved(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A checkpoint at a signal is saved before the run would have read which updates were skipped. A resumed run
        # keeps counting them until then, as an uninterrupted one would.
        self._ahead = checkpoint.get("ahead", 0)
        self.updates, self.batches = checkpoint["updates"] + self._ahead, checkpoint["batches"]
        self._random_state = checkpoint["random_state"]

    def saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Part of a state dict that checkpoints save: all but the frozen networks of losses."""
        groups = ("image_losses", "latent_losses", "output_losses", "layer_losses")
        losses = {name: getattr(self, name) for name in groups}
        excluded = [f"{group}.{name}." for group, members in losses.items() for name in frozen(members)]
        excluded += [f"adversary.{name}." for name in (self.adversary.frozen if self.adversary else ())]
        return {key: value for key, value in state.items() if not key.startswith(tuple(excluded))}


def losses_with_argument(losses: nn.ModuleDict, argument: str) -> list[str]:
    """Names of the losses whose forward has an argument of this name."""
    return [name for name, loss in losses.items() if argument in inspect.signature(loss.forward).parameters]


def frozen(losses: nn.ModuleDict) -> list[str]:
    """Names of the losses without trained parameters, and of frozen networks (teachers) within the others."""
    return [
        name
        for name, part in losses.named_modules()
        if (name in losses or any(True for _ in part.parameters()))
        and not any(parameter.requires_grad for parameter in part.parameters())
    ]


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def add_gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Adds a loss's gradients to those of the parameters without their hooks.

    DDP with ``static_graph`` would take a backward pass that it does not average for a part of the next one (seen with
    torch 2.15).
    """
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of the random generators that training draws from: the CPU's, and that of the GPU if there is one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def weighted_sum(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], scales: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Weighted sum of loss terms. A weight of 0 leaves a term out of the sum; a term without a weight raises KeyError.

    Args:
        terms: Unweighted scalars by name.
        weights: Weight of each term by name.
        scales: Further factors, as tensors, of some terms by name.
    """
    scales = scales or {}
    return sum(weights[name] * scales.get(name, 1.0) * term for name, term in terms.items() if weights[name])
