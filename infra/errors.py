"""The two errors that reach a person as one line: what they asked for is wrong, or the work failed.

Anything else that escapes a command is a bug of ours and keeps its traceback.
"""


class UsageError(ValueError):
    """The arguments or the recipe are wrong; nothing was started. Commands exit with code 2."""


class JobError(RuntimeError):
    """The work could not be done for a reason the user can act on. Commands exit with code 1."""
