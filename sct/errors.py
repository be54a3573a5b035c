"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in a config, a command or a data set.

    The message says what is wrong, where (config key or file) and what to do about it. Entry points print
    it without a traceback and exit with status 1; every other exception is a bug and keeps its traceback.
    """
