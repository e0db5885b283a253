"""What a user can fix: the one exception for it, and how to tell what is of this kind."""


class UserError(ValueError):
    """Something the user gave is wrong; the message alone must be enough to fix it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error means that the host or a device has no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
