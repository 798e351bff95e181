"""What this process knows of device memory, and its journal: one of each."""

import os

from .journal import FOLDER, Journal
from .known import KnownMemory

known = KnownMemory()
journal = Journal(os.environ.get(FOLDER))
