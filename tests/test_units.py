import pytest

from profiler.errors import ProfilerError
from profiler.units import format_bytes, parse_bytes

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (-3 * 2**20, "-3.00 MiB"), (5 * 2**29, "2.50 GiB")],
)
def test_sizes_in_binary_units(size_bytes, text):
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("12", 12),
        ("1.5GiB", 3 * 2**29),
        (" 2 mib ", 2**21),
        ("7 B", 7),
        ("24GB", 24 * 10**9),
        ("2 GB", 2 * 10**9),
        ("24 GiB", 24 * 2**30),
        ("0.5tib", 2**39),
        ("3TB", 3 * 10**12),
        ("1kb", 1000),
    ],
)
def test_sizes_from_the_command_line(text, size_bytes):
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "lots", "1 GX", "-1", "1 2", "1e9", "24G"])
def test_what_is_not_a_size(text):
    with pytest.raises(ProfilerError, match="not a size"):
        parse_bytes(text)
