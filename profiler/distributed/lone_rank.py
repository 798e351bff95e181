"""One rank of many in one process: what the launcher would have told it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.distributed.store import LoneRankStore
from profiler.errors import ProfilerError
from profiler.gpu.virtual.card_file import VirtualGPUs

MOST_RANKS = 4096
WITHOUT_PEERS = Path(__file__).parent / "without_peers"  # loaded into the program


@dataclass(frozen=True)
class LoneRank:
    """Rank `rank` of `world_size`, on a machine with `devices` GPUs, as all the others are."""

    rank: int
    world_size: int
    devices: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.world_size <= MOST_RANKS:
            raise ProfilerError(f"--world-size is from 1 to {MOST_RANKS}")
        if not 0 <= self.rank < self.world_size:
            raise ProfilerError(f"--rank is from 0 to {self.world_size - 1}, the world's size less one")

    def environment(self, port: int) -> dict[str, str]:
        """What torchrun tells a rank, with the store of profiler.distributed.store at `port`.

        The names are torchrun's (torch/distributed/elastic/agent/server/local_elastic_agent.py).
        """
        devices = min(self.devices, self.world_size)
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.rank % devices),
            "LOCAL_WORLD_SIZE": str(devices),
            "GROUP_RANK": str(self.rank // devices),
            "GROUP_WORLD_SIZE": str(-(-self.world_size // devices)),
            "ROLE_RANK": str(self.rank),
            "ROLE_WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # rank 0 too asks the store and serves none
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_RUN_ID": "lone-rank",
            # NCCL's identifiers come from one rank, so that the store has to answer for no other
            "TORCH_NCCL_RANKS_PER_ROOT": str(MOST_RANKS),
        }


def ranks_in(text: str) -> list[int]:
    """The ranks that "0,3,6-8" names, each once, in order. Raises ProfilerError for anything else."""
    ranks: set[int] = set()
    for part in text.split(","):
        span = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if first > last or last >= MOST_RANKS:
            raise ProfilerError(f"--rank is a rank below {MOST_RANKS}, or several as 0,3,6-8; not {text!r}")
        ranks.update(range(first, last + 1))
    return sorted(ranks)


@contextmanager
def as_lone_rank(lone: LoneRank, gpus: VirtualGPUs) -> Iterator[tuple[VirtualGPUs, dict[str, str]]]:
    """Inside, the other ranks' store answers: the GPUs and the environment of a process that is that rank."""
    with LoneRankStore() as store:
        yield replace(gpus, lone_rank=True), {**os.environ, **lone.environment(store.port)}
