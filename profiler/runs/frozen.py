"""Imported last by the server that processes are forked from (profiler.runs.processes).

What is imported by then stays: the garbage collectors of forked processes need not look at it again, which
takes longer than a small simulation, and copies every page.
"""

import gc

gc.collect()
gc.freeze()
