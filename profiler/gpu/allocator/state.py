"""All that the allocator holds, and the view of it that a memory snapshot gives."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.gpu.allocator.blocks import (
    ALLOCATED,
    AWAITING_FREE,
    FREE,
    UNMAPPED,
    Block,
    BlockPool,
    ExpandableSegment,
)
from profiler.gpu.allocator.statistics import Statistics

_STATE_NAMES = {ALLOCATED: "active_allocated", AWAITING_FREE: "active_awaiting_free", FREE: "inactive"}


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """A part of a segment. `state` is that of `torch.cuda.memory_snapshot()`: "active_allocated",
    "active_awaiting_free" (freed, but another stream may still use it) or "inactive"."""

    address: int
    size_bytes: int
    requested_bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """Contiguous device memory that the allocator holds; its blocks tile it in address order."""

    address: int
    total_size_bytes: int
    stream: int
    segment_type: str  # "small" or "large"
    is_expandable: bool
    blocks: tuple[BlockInfo, ...]


class AllocatorState:
    """Every block of the device: in use, awaiting another stream, or free in one of the two pools."""

    def __init__(self) -> None:
        self.total = Statistics()
        self.small = BlockPool(is_small=True, total=self.total)
        self.large = BlockPool(is_small=False, total=self.total)
        self.in_use: dict[int, Block] = {}  # address -> allocated block
        self.awaiting: dict[int, Block] = {}  # freed, but another stream may still use them
        self.heads: dict[int, Block] = {}  # address -> first block of each segment

    def pool(self, segment_type: str) -> BlockPool:
        """The pool of a segment, "small" or "large"."""
        return self.small if segment_type == "small" else self.large

    def segments(self) -> tuple[SegmentInfo, ...]:
        """The segments by address; of an expandable segment each contiguous mapped range is one."""
        result = []
        for head in self.heads.values():
            infos: list[BlockInfo] = []
            block: Block | None = head
            while block is not None:
                if block.state != UNMAPPED:
                    state = _STATE_NAMES[block.state]
                    infos.append(BlockInfo(block.address, block.size_bytes, block.requested_bytes, state))
                block = block.next
                if infos and (block is None or block.state == UNMAPPED):
                    result.append(_segment_info(head, infos))
                    infos = []
        return tuple(sorted(result, key=lambda segment: segment.address))

    def restore_segment(
        self, segment: SegmentInfo, expandable: ExpandableSegment | None, previous: Block | None
    ) -> Block:
        """Build the blocks of a recorded segment behind `previous`, if any; return the last.

        Raises ValueError if they do not tile it.
        """
        pool = self.pool(segment.segment_type)
        end = segment.address
        for info in segment.blocks:
            if info.address != end or info.size_bytes <= 0:
                raise ValueError(f"the blocks of segment {segment.address:#x} do not tile it")
            block = Block(info.address, info.size_bytes, segment.stream, pool, expandable)
            if previous is not None:
                previous.link(block)
            else:
                self.heads[info.address] = block
            previous, end = block, info.address + info.size_bytes
            if info.state == "inactive":
                pool.insert(block)
                if expandable is None and len(segment.blocks) > 1:
                    for statistics in pool.counted_in:
                        statistics.change_inactive_split(1, info.size_bytes)
            else:
                self._restore_active(block, info)
        if previous is None or end != segment.address + segment.total_size_bytes:
            raise ValueError(f"the blocks of segment {segment.address:#x} do not tile it")
        for statistics in pool.counted_in:
            statistics.reserved_bytes.change(segment.total_size_bytes)
            if expandable is None:
                statistics.segment.change(1)
        return previous

    def _restore_active(self, block: Block, info: BlockInfo) -> None:
        awaits = info.state == "active_awaiting_free"
        block.requested_bytes = info.requested_bytes
        block.state = AWAITING_FREE if awaits else ALLOCATED
        (self.awaiting if awaits else self.in_use)[info.address] = block
        for statistics in block.pool.counted_in:
            statistics.hand_out(info.size_bytes, info.requested_bytes)
            if awaits:
                statistics.hold(info.size_bytes)


def _segment_info(head: Block, infos: list[BlockInfo]) -> SegmentInfo:
    return SegmentInfo(
        address=infos[0].address,
        total_size_bytes=sum(info.size_bytes for info in infos),
        stream=head.stream,
        segment_type="small" if head.pool.is_small else "large",
        is_expandable=head.expandable is not None,
        blocks=tuple(infos),
    )
