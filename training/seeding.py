"""Seeds that follow from where a random number is used, so that no random state has to be carried along."""

import hashlib


def mix(*values: int) -> int:
    """63 well-mixed bits that follow from the values; the same on every machine."""
    hashed = hashlib.blake2b(repr(values).encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), "big") >> 1
