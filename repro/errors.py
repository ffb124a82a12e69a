"""The one exception a user can cause."""


class ReproError(Exception):
    """Input that cannot work, as one sentence: the thing, what was found, what is accepted.

    The command line prints the sentence without a traceback and exits with status 2.
    """
