"""The one exception that means: the user can mend this."""

import re

# what a terminal obeys instead of showing it (C0 without tab and line feed, delete, C1), and what turns lines of text
# round or breaks them: a name in a file of a stranger would change what the user sees, or more
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class UserError(ValueError):
    """A mistake in a config, a command or a data set.

    The message says what is wrong, where (config key or file) and what to do about it. Entry points print
    it without a traceback and exit with status 1; every other exception is a bug and keeps its traceback.
    """

    def __str__(self) -> str:
        return visible(super().__str__())


def visible(text: str) -> str:
    """A text whose control characters are shown, as \\x1b, and not obeyed; line feeds and tabs stay."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
