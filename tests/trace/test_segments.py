"""Segments and the blocks in them, worked out by hand."""

from __future__ import annotations

from profiler.trace.events import Allocation, Free
from profiler.trace.segments import Held, Holes, SegmentChange, holes, segments_at
from profiler.units import MIB


def test_blocks_tile_the_segments_that_are_held():
    entries = [
        Allocation(100 * MIB, 512, 4),
        Allocation(200 * MIB, 3 * MIB, 3 * MIB),
        Allocation(203 * MIB, 5 * MIB, 5 * MIB - 1),
        Free(200 * MIB),
        Allocation(300 * MIB, 12 * MIB, 12 * MIB),
        Free(300 * MIB),
        Free(100 * MIB),
    ]
    changes = {
        0: [SegmentChange("segment_alloc", 100 * MIB, 2 * MIB)],
        1: [SegmentChange("segment_alloc", 200 * MIB, 20 * MIB, 3)],
        4: [SegmentChange("segment_alloc", 300 * MIB, 12 * MIB)],
        6: [SegmentChange("segment_free", 300 * MIB, 12 * MIB)],
    }
    small, large = segments_at(entries, changes, 3)
    assert (small.segment_type, small.stream, small.total_size_bytes) == ("small", 0, 2 * MIB)
    assert (large.segment_type, large.stream, large.is_expandable) == ("large", 3, False)
    tiles = [(b.address // MIB, b.size_bytes // MIB, b.requested_bytes, b.state) for b in large.blocks]
    assert tiles == [
        (200, 3, 0, "inactive"),
        (203, 5, 5 * MIB - 1, "active_allocated"),
        (208, 12, 0, "inactive"),
    ]
    # The rest of the small one, and the two holes of the other.
    assert holes((small, large)) == Holes(2, 3, 2 * MIB - 512 + 15 * MIB, 12 * MIB)
    assert len(segments_at(entries, changes, 5)) == 3
    (small, large) = segments_at(entries, changes, 6)
    assert [b.state for b in small.blocks] == ["inactive"]
    assert small.segment_type == "small"


def test_mapped_pages_beside_each_other_are_one_segment_until_one_is_unmapped():
    held = Held()
    held.change(SegmentChange("segment_map", 10, 4))
    held.change(SegmentChange("segment_map", 14, 6))
    held.change(SegmentChange("segment_map", 30, 2))
    assert [(span.address, span.size_bytes) for span in held.spans()] == [(10, 10), (30, 2)]
    held.change(SegmentChange("segment_unmap", 12, 4))
    assert [(span.address, span.size_bytes) for span in held.spans()] == [(10, 2), (16, 4), (30, 2)]
    assert held.at(11) == SegmentChange("segment_map", 10, 2)
    assert held.at(12) is None
    assert held.at(32) is None


def test_segments_of_their_own_beside_each_other_stay_two():
    held = Held()
    held.change(SegmentChange("segment_alloc", 10, 4))
    held.change(SegmentChange("segment_alloc", 14, 4))
    assert len(held.spans()) == 2
    held.change(SegmentChange("segment_free", 10, 4))
    assert held.spans() == [SegmentChange("segment_alloc", 14, 4)]
