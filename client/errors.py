"""The one exception a user is meant to see."""


class UserError(Exception):
    """Bad input: one line that names the file or key and says how to mend it.

    The command line prints the message alone and exits with status 2.
    """
