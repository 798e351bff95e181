"""What this process knows of device memory, and its journal: one of each."""

from .journal import ReadsJournal
from .known import KnownMemory

known = KnownMemory()
journal = ReadsJournal()
