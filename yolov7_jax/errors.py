"""The one exception that the command line turns into a line of text and exit code 2."""


class UserError(ValueError):
    """Something the user gave is wrong; the message alone must be enough to mend it."""
