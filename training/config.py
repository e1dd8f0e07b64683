"""What a recipe's `training` section may say. Defaults are the paper's four-step real-SR x4 model."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0.0)]
Rate = Annotated[float, Field(gt=0.0)]


class OptimizationConfig(BaseModel):
    """What every training loop here needs: batches, learning rate, precision, checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_steps: Positive = 400_000
    """Optimizer steps of the whole run."""
    global_batch_size: Positive = 96
    """Samples per optimizer step, over all processes."""
    micro_batch_size: Positive = 12
    """Most samples one process sends through the network at once; the rest is gradient accumulation."""
    learning_rate: Rate = 5e-5
    """Highest learning rate, reached after the warm-up."""
    min_learning_rate: Weight = 2e-5
    """Learning rate at the last step, where the cosine ends."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5_000
    """Steps of linear warm-up from zero."""
    weight_decay: Weight = 0.0
    """Decoupled weight decay of AdamW."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    grad_clip: Rate = 10.0
    """Largest norm of the whole gradient; a larger one is scaled down to it."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the exponential moving average of the weights, which is what gets exported."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the networks; weights, optimizer and EMA stay float32 either way."""
    zero_stage: Literal[0, 1, 2] = 1
    """DeepSpeed ZeRO: 0 replicates everything, 1 shards the optimizer state, 2 the gradients too."""
    compile: bool = True
    """Run the network through torch.compile (needs a C++ compiler on CPU, minutes at the start)."""
    channels_last: bool = True
    """Compute convolutions on (B, H, W, C) in memory, which tensor cores and bfloat16 on CPUs are faster with."""
    checkpoint_every: Positive = 5_000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Positive = 3
    """How many of the newest checkpoints are kept."""
    best_metric: Literal["lpips_alex", "psnr_y"] = "lpips_alex"
    """Validation figure by which the best checkpoint is kept besides the newest: least LPIPS-alex
    (images under 32 pixels have none, and no best), or most PSNR-Y."""
    log_every: Positive = 100
    """Steps between two sets of figures in MLflow."""
    max_bad_steps: Positive = 10
    """Steps in a row with a non-finite loss or gradient after which the run stops."""
    validation_samples: Annotated[int, Field(ge=0)] = 32
    """Samples at the end of the dataset that are never trained on and measure progress; 0 for none."""
    validate_every: Positive = 10_000
    """Steps between two validations; the last step is always validated."""
    loader_workers: Positive = 4
    """Threads that read and decode samples in each process; the batches are the same for any number."""
    shard_cache_gib: Rate = 50.0
    """Disk space on each node for copies of shards that are stored on S3; those unused for longest go first."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Initial weights, data order, timesteps and noise all follow from it."""

    @property
    def shard_cache_bytes(self) -> int:
        """The same in bytes."""
        return int(self.shard_cache_gib * 2**30)

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        # num_steps is left out on purpose: cutting a run short (`training.num_steps=3`) must not need other changes.
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate:g} is above learning_rate {self.learning_rate:g}; lower it"
            )
        if self.micro_batch_size < self.global_batch_size and self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}; choose a divisor"
            )
        return self

    def due(self, step: int, every: int) -> bool:
        """True when something done every `every` steps, and at the end, comes after `step` steps."""
        return step % every == 0 or step == self.num_steps


class AutoencoderTrainingConfig(OptimizationConfig):
    """Training of the VQGAN: reconstruction (L1 + LPIPS-vgg), patch discriminator, commitment."""

    num_steps: Positive = 300_000
    global_batch_size: Positive = 32
    micro_batch_size: Positive = 4
    learning_rate: Rate = 1e-4
    min_learning_rate: Weight = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.9)
    grad_clip: Rate = 10.0
    crop_size: Annotated[int, Field(ge=8)] = 256
    """Side of the random HQ crops, in pixels."""
    l1_weight: Weight = 1.0
    """Weight of the mean absolute error in [-1, 1]."""
    lpips_weight: Weight = 1.0
    """Weight of LPIPS-vgg between reconstruction and HQ; 0 leaves it out."""
    lpips_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of each global batch that LPIPS looks at. Below 1 its gradient is noisier and costs that much less."""
    commitment_weight: Weight = 1.0
    """Weight of the quantiser's commitment and codebook loss."""
    discriminator_weight: Weight = 0.8
    """Weight of the adversarial loss, on top of the adaptive one; 0 leaves the discriminator out."""
    discriminator_start: Annotated[int, Field(ge=0)] = 30_000
    """Step from which the discriminator is trained and its loss counts."""
    discriminator_learning_rate: Rate = 1e-4
    """Learning rate of the discriminator."""
    discriminator_channels: Positive = 64
    """Channels of the discriminator's first layer."""
    discriminator_layers: Positive = 3
    """Strided layers of the discriminator; its receptive field doubles with each."""
    linear_start: bool = True
    """Start from weights that already reconstruct coarsely, where the network's groups are wide enough for it."""
    codebook_start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the run trained as a plain autoencoder; then the codebook is placed on its latents and used."""
    revive_every: Annotated[int, Field(ge=0)] = 500
    """Steps after which codes that were never used are moved onto current latents; 0 for never."""
    revive_until: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    """Share of the run after which codes are left where they are."""

    @property
    def lpips_samples(self) -> int:
        """How many samples of a global batch LPIPS looks at."""
        return math.ceil(self.lpips_share * self.global_batch_size)

    def lpips_rows(self, slots: Sequence[int]) -> list[int]:
        """Which of the samples at these places of a global batch LPIPS looks at; spread evenly over the places.

        A rule of the place alone, so that it does not matter how the batch is cut.
        """
        judged, batch = self.lpips_samples, self.global_batch_size
        return [row for row, slot in enumerate(slots) if (slot + 1) * judged // batch > slot * judged // batch]


class TrainingConfig(OptimizationConfig):
    """Training of the denoiser, and beside it that of the autoencoder it works in."""

    mse_weight: Weight = 1.0
    """Weight of the mean squared error of x_0, in the space the process runs in."""
    lpips_weight: Weight = 1.0
    """Weight of LPIPS-vgg between the decoded prediction and HQ; 0 leaves decoding out."""
    lpips_crop: Positive | None = None
    """Let LPIPS look at a random square of this many latent pixels per side, not at the whole prediction: cheaper, and
    not what the paper does."""
    linear_start: bool = False
    """Start from the linear regression of x_0 on the LQ image, where the network's shape allows it: for short runs."""
    autoencoder: AutoencoderTrainingConfig = AutoencoderTrainingConfig()
    """Used by train_autoencoder only."""

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.mse_weight == 0.0 and self.lpips_weight == 0.0:
            raise ValueError("mse_weight and lpips_weight are both 0; nothing would be learned; raise one of them")
        return self
