"""Many GPUs: one rank of many alone, and what each rank needs.

store.py      the store that ranks find each other by, answering for those that are not there
lone_rank.py  one rank of many, in one process
without_peers/  loaded into it: what it would hear on the CPU
ranks.py      what each rank needed, ranks alike put together
"""
