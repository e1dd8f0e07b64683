"""Keeping a VQGAN's codebook in use: placed by k-means, watched, and dead codes revived.

N latent vectors, K codes, D channels.
"""

from typing import Any

import torch
from torch import Tensor

from resshift.quantizer import nearest_codes
from training.agreement import gather
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

    Call `observe` once per micro batch; `place` and `revive` change the weights, the same way in every process and for
    any number of them.
    """

    def __init__(self, engine: Any, weight: Tensor, processes: Processes) -> None:
        self.engine, self.weight, self.processes = engine, weight, processes
        self.used = torch.zeros(len(weight), dtype=torch.int64)
        self.placed = False
        self.recent = torch.zeros(0, weight.shape[1])
        """The last latents of all processes, up to when they were last put together."""
        self._since: list[tuple[int, Tensor]] = []
        self._limit = RECENT_PER_CODE * len(weight)

    def observe(self, step: int, z: Tensor, indices: Tensor | None) -> None:
        """Remember latents z (B, D, h, w) of a step and, once quantised, their code indices (B * h * w,).

        Whether the step is skipped is not known yet: latents that are not finite must not become codes one day.
        """
        vectors = z.detach().float().permute(0, 2, 3, 1).flatten(0, 2).cpu()
        finite = vectors.isfinite().all(dim=1)
        self._since.append((step, vectors[finite]))
        while sum(len(vectors) for _, vectors in self._since[1:]) >= self._limit:
            del self._since[0]
        if indices is not None:
            self.used += torch.bincount(indices.detach().cpu()[finite], minlength=len(self.used))

    def place(self, seed: int) -> Tensor:
        """Move all codes to the k-means centres of the recent latents; returns the new codebook.

        At the very start there are no latents yet and the codes stay where they are.
        """
        self.placed = True
        self._put_together()
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
        """Move the codes marked by `dead` (K,) onto random recent latents, if any; returns the new codebook."""
        self._put_together()
        if not len(self.recent):
            return self.weight.detach()
        codes = self.weight.detach().float().cpu().clone()
        generator = torch.Generator().manual_seed(seed)
        codes[dead] = self.recent[torch.randint(len(self.recent), (int(dead.sum()),), generator=generator)]
        return self._write(codes)

    def state_dict(self) -> dict[str, Any]:
        """What all processes have seen. All of them must call it."""
        self._put_together()
        used = sum_over(self.processes, self.used.clone())
        return {"recent": self.recent, "used": used, "placed": self.placed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent, self.placed = state["recent"], state["placed"]
        self.used = state["used"] if self.processes.is_main else torch.zeros_like(state["used"])  # they are summed up
        self._since = []

    def _put_together(self) -> None:
        """Add to `recent` what the processes have seen since, in the order of the samples in the global batches."""
        parts = [
            (step, rank, part) for rank, own in enumerate(gather(self.processes, self._since)) for step, part in own
        ]
        parts.sort(key=lambda entry: entry[:2])  # stable: micro batches stay in order
        self.recent = torch.cat([self.recent, *(part for *_, part in parts)])[-self._limit :]
        self._since = []

    def _write(self, codes: Tensor) -> Tensor:
        codes = broadcast_from_main(self.processes, codes.to(self.weight.device))
        write_parameter(self.engine, self.weight, codes)
        return codes
