"""What this process knows of device memory, and its journal: one of each."""

import os

from .journal import FOLDER, ReadsJournal
from .known import KnownMemory

known = KnownMemory()
journal = ReadsJournal(os.environ.get(FOLDER))
