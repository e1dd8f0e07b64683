"""Keeping a VQGAN's codebook in use: placed by k-means, watched, and dead codes revived.

N latent vectors, K codes, D channels.
"""

from typing import Any

import torch
from torch import Tensor

from resshift.quantizer import nearest_codes
from training.engine import Processes, broadcast_from_main, write_parameter
from training.figures import sum_over

RECENT_PER_CODE = 4


def kmeans(vectors: Tensor, num_codes: int, generator: torch.Generator, iterations: int = 10) -> Tensor:
    """Centres (K, D) of vectors (N, D) by Lloyd's algorithm. With N < K, vectors repeat with a little noise."""
    picked = torch.randperm(len(vectors), generator=generator)[:num_codes]
    centres = vectors[picked]
    if len(centres) < num_codes:
        again = torch.randint(len(vectors), (num_codes - len(centres),), generator=generator)
        spread = 0.01 * vectors.std(dim=0) * torch.randn(len(again), vectors.shape[1], generator=generator)
        return torch.cat([centres, vectors[again] + spread])
    for _ in range(iterations):
        nearest = nearest_codes(vectors, centres)
        counts = torch.bincount(nearest, minlength=num_codes)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
        empty = int((~used).sum())
        if empty:
            centres[~used] = vectors[torch.randint(len(vectors), (empty,), generator=generator)]
    return centres


class Codebook:
    """The codebook of a VQGAN in training: which codes are used, and which latents there are.

    Call `observe` once per micro batch; `place` and `revive` change the weights, the same way in every process.
    """

    def __init__(self, engine: Any, weight: Tensor, processes: Processes) -> None:
        self.engine, self.weight, self.processes = engine, weight, processes
        self.recent = torch.zeros(0, weight.shape[1])
        self.used = torch.zeros(len(weight), dtype=torch.int64)
        self.placed = False

    def observe(self, z: Tensor, indices: Tensor | None) -> None:
        """Remember latents z (B, D, h, w) and, once quantised, their code indices (B * h * w,)."""
        vectors = z.detach().float().permute(0, 2, 3, 1).flatten(0, 2).cpu()
        self.recent = torch.cat([self.recent, vectors])[-RECENT_PER_CODE * len(self.weight) :]
        if indices is not None:
            self.used += torch.bincount(indices.detach().cpu(), minlength=len(self.used))

    def place(self, seed: int) -> Tensor:
        """Move all codes to the k-means centres of the recent latents; returns the new codebook.

        At the very start there are no latents yet and the codes stay where they are.
        """
        self.placed = True
        if not len(self.recent):
            return self.weight.detach()
        generator = torch.Generator().manual_seed(seed)
        return self._write(kmeans(self.recent, len(self.weight), generator))

    def usage(self) -> tuple[float, Tensor]:
        """Share of the codes used since the last call, and which (K,) were not. All processes must call it."""
        dead = sum_over(self.processes, self.used.clone()) == 0
        self.used.zero_()
        return 1.0 - float(dead.double().mean()), dead

    def revive(self, dead: Tensor, seed: int) -> Tensor:
        """Move the codes marked by `dead` (K,) onto random recent latents; returns the new codebook."""
        codes = self.weight.detach().float().cpu().clone()
        generator = torch.Generator().manual_seed(seed)
        codes[dead] = self.recent[torch.randint(len(self.recent), (int(dead.sum()),), generator=generator)]
        return self._write(codes)

    def state_dict(self) -> dict[str, Any]:
        return {"recent": self.recent, "used": self.used, "placed": self.placed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent, self.used, self.placed = state["recent"], state["used"], state["placed"]

    def _write(self, codes: Tensor) -> Tensor:
        codes = broadcast_from_main(self.processes, codes.to(self.weight.device))
        write_parameter(self.engine, self.weight, codes)
        return codes
