"""Too little memory, as it is told on GPUs and CPUs."""

import torch

MEMORY_ERRORS = (MemoryError, RuntimeError)
"""What may be one; see `is_out_of_memory`. NumPy raises MemoryError; torch has a type for GPUs, and none for CPUs."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
