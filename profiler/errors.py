"""The one exception that the command line turns into a single clear line."""


class ProfilerError(Exception):
    """Something the user can mend; its message is one line saying what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing (Python's own MemoryError)."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
