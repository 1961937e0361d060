"""The error that a user can cause."""


class UserError(ValueError):
    """What was expected, what came, where, and what to do, in one line.

    Raised for input that a user controls: files, folders, annotation entries, config values. The command line prints the
    message as one line and exits with code 2; everything else keeps its traceback.
    """
