import itertools
import random
import time

import pytest

from profiler.trace.alignment import Request, Unmatched, align, explain, similarity

pytestmark = pytest.mark.quick


def common_length(first, second):
    """The textbook table of longest common subsequences."""
    above = [0] * (len(second) + 1)
    for a in first:
        row = [0]
        for j, b in enumerate(second):
            row.append(above[j] + 1 if a == b else max(above[j + 1], row[j]))
        above = row
    return above[-1]


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ([], [1], []),
        ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
        ([1, 2, 3], [1, 3], [(0, 0), (2, 1)]),
        ([2, 3], [1, 2, 3], [(0, 1), (1, 2)]),
        ([1, 9, 3], [1, 8, 3], [(0, 0), (2, 2)]),
        ([1, 2], [3, 4], []),
    ],
)
def test_small_sequences(first, second, pairs):
    assert align(first, second) == pairs


def test_as_many_pairs_as_the_longest_common_subsequence():
    chance = random.Random(0)
    for _ in range(300):
        first = [chance.randrange(4) for _ in range(chance.randrange(30))]
        second = [chance.randrange(4) for _ in range(chance.randrange(30))]
        pairs = align(first, second)
        assert len(pairs) == common_length(first, second)
        assert all(first[i] == second[j] for i, j in pairs)
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))


def test_a_buffer_missing_from_every_layer_is_named_once():
    layer = [Request(100, "attention"), Request(400, "mlp")]
    with_copy = [Request(100, "attention"), Request(64, "hidden copy"), Request(400, "mlp")]
    start = [Request(7, "embedding")]
    found = explain(start + 3 * with_copy, start + 3 * layer)
    assert (found.aligned, found.first_total, found.second_total) == (7, 10, 7)
    assert found.only_first == (Unmatched("hidden copy", 64, 3),)
    assert found.only_second == ()
    assert found.unexplained_bytes == 192


def test_another_size_shows_on_both_sides_and_causes_come_largest_first():
    first = [Request(10, "a"), Request(1000, "workspace"), Request(20, "b"), Request(1, "c"), Request(2, "c")]
    second = [Request(10, "a"), Request(512, "workspace"), Request(20, "b")]
    found = explain(first, second)
    assert found.only_first == (
        Unmatched("workspace", 1000, 1),
        Unmatched("c", 2, 1),
        Unmatched("c", 1, 1),
    )
    assert found.only_second == (Unmatched("workspace", 512, 1),)
    assert found.unexplained_bytes == 1000 + 2 + 1 + 512


def test_unlike_sequences_of_twenty_thousand_take_seconds_not_hours():
    chance = random.Random(1)
    first = [chance.randrange(10**6) for _ in range(20_000)]
    second = [chance.randrange(10**6) for _ in range(10_000)]
    second[3000:3050] = first[3000:3050]
    started = time.process_time()
    pairs = align(first, second)
    assert time.process_time() - started < 30
    assert all(first[i] == second[j] for i, j in pairs)


def test_like_sequences_with_many_differences_are_aligned_through_all_pieces():
    first = [size for i in range(3000) for size in (i, i + 10**6, -1)]
    second = [size for i in range(3000) for size in (i, i + 10**6)]
    assert len(align(first, second)) == 6000


def test_similarity_counts_sizes_of_both():
    assert similarity([1, 1, 2], [1, 2, 3]) == pytest.approx(2 * 2 / 6)
    assert similarity([], []) == 0
