"""The one exception that the command line turns into a single clear line."""


class ProfilerError(Exception):
    """Something the user can mend; its message is one line saying what is wrong and what to do."""
