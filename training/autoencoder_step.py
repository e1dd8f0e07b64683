"""One optimizer step of VQGAN training, and the state that steps change."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resshift.perceptual import lpips_metric
from training.autoencoder_loss import AdversarialBalance, AutoencoderPass, judge, surrogate
from training.autoencoder_task import AutoencoderTask
from training.bad_steps import BadSteps
from training.codebook import Codebook
from training.discriminator import PatchDiscriminator, discriminator_loss
from training.ema import Ema
from training.engine import Processes, autocast, build_engine, place, plan_batches, poisoned, set_learning_rate
from training.figures import Figures
from training.loader import Batch
from training.lr import learning_rate
from training.seeding import mix, seed_micro_batch

CODEBOOK_WEIGHT = "quantize.embedding.weight"


class AutoencoderTraining:
    """Networks, optimizers, average and codebook of a run."""

    def __init__(self, task: AutoencoderTask, out: str, processes: Processes) -> None:
        config = task.config
        self.task, self.config, self.processes = task, config, processes
        self.autocast = autocast(config.precision, processes.device)
        plan = plan_batches(config, processes.world_size, "training.autoencoder")
        self.micro = plan.micro
        self.network = AutoencoderPass(task.build_autoencoder().to(processes.device))
        self.engines = {"autoencoder": build_engine(self.network, config, processes)}
        if config.compile:
            self.network.vqgan.encoder.compile()
            self.network.vqgan.decoder.compile()
        if config.discriminator_weight:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                discriminator = PatchDiscriminator(config.discriminator_channels, config.discriminator_layers)
            self.engines["discriminator"] = build_engine(discriminator.to(processes.device), config, processes)
        self.perceptual = None
        if config.lpips_weight:
            self.perceptual = place(lpips_metric("vgg"), processes.device, config.channels_last)
        self.ema = Ema(self.network.vqgan, config.ema_decay)
        codes = self.network.vqgan.quantize.embedding.weight
        self.codebook = Codebook(self.engines["autoencoder"], codes, processes)
        self.balance = AdversarialBalance(processes, plan.micro_steps)
        self.bad_steps = BadSteps(config.max_bad_steps, out, processes)
        self.figures = Figures(processes)

    def step(self, batch: Batch) -> None:
        """One optimizer step of the autoencoder and, once it has started, of the discriminator."""
        config, engine = self.config, self.engines["autoencoder"]
        self._tend_codebook(batch.step)
        quantize = self.codebook.placed
        set_learning_rate(engine, learning_rate(batch.step, config))
        discriminator = self._discriminator(batch.step)
        for part in batch.micro(self.micro):
            seed_micro_batch(config.seed, part.step, part.slots)
            hq = self.task.crops(part, self.processes.device)
            reconstruction, commitment, z, codes = engine(hq, quantize)
            found = judge(
                reconstruction,
                hq,
                part.slots,
                config=config,
                perceptual=self.perceptual,
                discriminator=None if discriminator is None else discriminator.module,
                autocast=self.autocast,
            )
            gradient = found.gradient
            if found.generator_gradient is not None:
                adversarial_weight = config.discriminator_weight * self.balance.weight
                gradient = gradient + adversarial_weight * found.generator_gradient
                at_last_layer = self.network.last_layer_gradient
                self.balance.observe(at_last_layer(found.gradient), at_last_layer(found.generator_gradient))
                self.figures.add(adversarial=found.adversarial, adversarial_weight=adversarial_weight)
            engine.backward(poisoned(surrogate(reconstruction, gradient, commitment, config.commitment_weight)))
            engine.step()
            self.codebook.observe(batch.step, z, codes if quantize else None)
            loss = config.l1_weight * found.l1 + config.lpips_weight * found.lpips
            self.figures.add(loss=loss, l1=found.l1, lpips=found.lpips, commitment=commitment)
            if discriminator is not None:
                self._discriminator_step(discriminator, hq, reconstruction.detach().float())
        if discriminator is not None:
            self.balance.step_done()
        applied = engine.was_step_applied()
        if applied:
            self.ema.update(self.network.vqgan)
        self.bad_steps.passed(applied and (discriminator is None or discriminator.was_step_applied()), batch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds besides the engines."""
        return {name: getattr(self, name).state_dict() for name in ("ema", "codebook", "balance", "bad_steps")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def _discriminator(self, step: int) -> Any:
        return self.engines.get("discriminator") if step >= self.config.discriminator_start else None

    def _discriminator_step(self, discriminator: Any, hq: Tensor, reconstruction: Tensor) -> None:
        set_learning_rate(discriminator, self.config.discriminator_learning_rate)
        real, fake = discriminator(torch.cat([hq, reconstruction])).float().chunk(2)
        loss = discriminator_loss(real, fake)
        discriminator.backward(poisoned(loss))
        discriminator.step()
        self.figures.add(discriminator=loss)

    def _tend_codebook(self, step: int) -> None:
        config, codebook = self.config, self.codebook
        if not codebook.placed:
            if step >= int(config.codebook_start * config.num_steps):
                self.ema.replace(CODEBOOK_WEIGHT, codebook.place(mix(config.seed, step)))
        elif config.revive_every and step % config.revive_every == 0:
            usage, dead = codebook.usage()
            self.figures.add(codebook_usage=torch.tensor(usage))
            if step < config.revive_until * config.num_steps and dead.any():
                self.ema.replace(CODEBOOK_WEIGHT, codebook.revive(dead, mix(config.seed, step)), rows=dead)
