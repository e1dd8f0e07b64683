"""AdamW's moments in a layout that no number of processes and no ZeRO stage is written into.

Under ZeRO 1 and 2 each process keeps the moments of one stretch of all parameters laid end to end, which may begin and
end inside a parameter. A process writes the pieces of parameters that it holds under "<parameter>@<first element>";
reading takes whatever pieces, of whichever process, overlap with what is held now. At stage 0 everybody holds all and
the main process writes it. DeepSpeed's own universal format wants a conversion by a second program before a run can go
on, and files per parameter; this one needs neither.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import Processes
from training.tensor_file import open_tree, write_tree

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


@dataclass(frozen=True)
class _Piece:
    """Elements start .. start + numel - 1 of a parameter, whose moments lie in `state` from `offset` on (flat)."""

    name: str
    start: int
    numel: int
    holder: Tensor
    offset: int


@dataclass(frozen=True)
class _StoredPiece:
    """Elements start .. end - 1 of a parameter in an open file."""

    start: int
    end: int
    step: int
    file: Any
    key: str

    def read(self, moment: str, first: int, last: int) -> Tensor:
        """Elements first .. last - 1 of the parameter's moment, from the disk."""
        window: Tensor = self.file.get_slice(f"{self.key}/{moment}")[first - self.start : last - self.start]
        return window


def write_moments(engine: Any, folder: Path, processes: Processes) -> None:
    """Write the pieces this process holds to folder/optimizer-<rank>.safetensors. Raises JobError."""
    if not (processes.is_main or engine.zero_optimization()):
        return
    states = _adamw(engine).state
    tree: dict[str, Any] = {}
    for piece in _pieces(engine):
        state = states.get(piece.holder)
        if not state:  # a parameter that has had no gradient yet
            continue
        window = slice(piece.offset, piece.offset + piece.numel)
        tree[f"{piece.name}@{piece.start}"] = {
            STEP: int(state[STEP]),
            **{moment: state[moment].flatten()[window] for moment in MOMENTS},
        }
    write_tree(folder / f"optimizer-{processes.rank}.safetensors", tree)


def read_moments(engine: Any, folder: Path) -> None:
    """Put the moments back that any number of processes wrote to `folder`, as far as this process holds them."""
    states = _adamw(engine).state
    states.clear()
    with ExitStack() as files:
        stored = _stored_pieces(folder, files)
        for piece in _pieces(engine):
            for source in stored.get(piece.name, []):
                first, last = max(source.start, piece.start), min(source.end, piece.start + piece.numel)
                if first >= last:
                    continue
                state = states[piece.holder] = states.get(piece.holder) or _fresh(piece.holder)
                begin = piece.offset + first - piece.start
                for moment in MOMENTS:
                    state[moment].view(-1)[begin : begin + last - first].copy_(source.read(moment, first, last))
                state[STEP].clamp_(min=source.step)


def _adamw(engine: Any) -> torch.optim.Optimizer:
    optimizer = engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer
    assert isinstance(optimizer, torch.optim.AdamW), "build_engine hands in no other"
    return optimizer


def _pieces(engine: Any) -> Iterator[_Piece]:
    """What this process holds moments of, in the order of the network's parameters."""
    partitions = engine.optimizer.single_partition_of_fp32_groups if engine.zero_optimization() else None
    for name, parameter in engine.module.named_parameters():
        if partitions is None:
            yield _Piece(name, 0, parameter.numel(), parameter, 0)
        elif (held := parameter._hp_mapping) is not None:
            inside, flat = held.lp_fragment_address, held.hp_fragment_address
            yield _Piece(name, inside.start, inside.numel, partitions[held.param_group_index], flat.start)


def _stored_pieces(folder: Path, files: ExitStack) -> dict[str, list[_StoredPiece]]:
    found: dict[str, list[_StoredPiece]] = {}
    for path in sorted(folder.glob("optimizer-*.safetensors")):
        file, values = files.enter_context(open_tree(path))
        for key, value in values.items():
            name, _, start = key.rpartition("@")
            numel = file.get_slice(f"{key}/{MOMENTS[0]}").get_shape()[0]
            found.setdefault(name, []).append(_StoredPiece(int(start), int(start) + numel, value[STEP], file, key))
    return found


def _fresh(holder: Tensor) -> dict[str, Tensor]:
    """AdamW's state before the first step, as it makes it itself."""
    return {STEP: torch.tensor(0.0), **{moment: torch.zeros_like(holder.detach()) for moment in MOMENTS}}
