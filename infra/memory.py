"""Too little memory, as it is told on GPUs and CPUs."""

import torch

MEMORY_ERRORS = (MemoryError, RuntimeError)
"""What may be one; see `is_out_of_memory`. NumPy raises MemoryError; torch has a type for GPUs, and none for CPUs."""

_WORDS = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")  # torch on a CPU; CUDA; cuBLAS and cuDNN


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
