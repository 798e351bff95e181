"""Plain data from pickles: the same as pickle.loads gives, and one line for all that is not plain data."""

import pickle
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiler.gpu.pickle_rows import Rows
from profiler.gpu.plain_pickle import Forbidden, PlainPickleError, read_plain

_KEYS = st.sampled_from(["action", "addr", "size", "frames", "pool"])
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=20)
)
_DATA = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.tuples(inner), st.dictionaries(_KEYS, inner)
    ),
    max_leaves=40,
)


def without_rows(data):
    """The same data with the dicts that became rows as dicts again."""
    if isinstance(data, dict):
        return {key: without_rows(value) for key, value in data.items()}
    if isinstance(data, tuple):
        return tuple(map(without_rows, data))
    if not isinstance(data, list):
        return data
    found = []
    for item in data:
        if isinstance(item, Rows):
            columns = [c if isinstance(c, list) else c.tolist() for c in item.columns.values()]
            found += [
                dict(zip(item.columns, map(without_rows, row), strict=True))
                for row in zip(*columns, strict=True)
            ]
        else:
            found.append(without_rows(item))
    return found


_EVENT = dict.fromkeys(["action", "addr", "size", "frames", "pool"])


@settings(max_examples=200, deadline=None)
@example([({**_EVENT}, {**_EVENT})], 4)
@example([{**_EVENT}, ({**_EVENT},), {"pool": {**_EVENT}, "size": {**_EVENT}}, {**_EVENT}], 4)
@example([{"pool": {**_EVENT}}, {"pool": {**_EVENT}, "size": {**_EVENT}}], 4)
@given(_DATA, st.integers(0, 5))
def test_any_plain_data_comes_back(data, protocol):
    assert without_rows(read_plain(pickle.dumps(data, protocol))) == data


def events(count, frames):
    """Events as a snapshot has them, with every kind of number and of value."""
    sizes = [0, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**40, 2**47, 2**62, -1, -129, -(2**40)]
    return [
        {
            "action": ["alloc", "free_completed"][i % 2],
            "addr": sizes[i % len(sizes)],
            "size": sizes[-i % len(sizes)],
            "context": f"n{i % 3}"[: i % 4],
            "pool_id": (0, i % 2),
            "frames": [frames[i % len(frames)]] * (i % 3),
            "none": None,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("shared", [False, True])
def test_dicts_in_a_row_become_columns_and_are_the_same(shared):
    frames = [{"name": f"f{i}", "line": i} for i in range(5)]
    data = {"before": frames, "events": events(5000, frames), "after": frames}
    if shared:  # a list of frames that many events name
        data["events"] = [{**event, "frames": frames} for event in data["events"]]
    found = read_plain(pickle.dumps(data, 4))
    assert without_rows(found) == data
    kinds = [type(item) for item in found["events"]]
    assert sum(item.length for item in found["events"] if type(item) is Rows) > 4900
    assert kinds.count(dict) < 100


def test_a_dict_that_is_used_twice_is_no_row():
    data = events(100, [{"name": "f"}])
    both = {"events": data, "again": data[::-1]}
    found = read_plain(pickle.dumps(both, 4))
    assert without_rows(found) == both


HOSTILE = {
    "memo far ahead": b"\x80\x04]r" + struct.pack("<I", (1 << 32) - 1) + b".",
    "memo far ahead in text": b"]p999999999999\n.",
    "text longer than the file": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "bytes longer than the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 33) + b"x.",
    "a number of many digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a number of a gigabyte": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"\x01.",
    "a deep tuple as a key": b"\x80\x04}()" + b"\x85" * 1_000_000 + b"K\x01u.",
    "a deep tuple in a set": b"\x80\x04()" + b"\x85" * 200_000 + b"\x91.",
    "nothing on the stack": b"0.",
    "tuple of nothing": b"\x80\x04(\x87.",
    "a mark alone": b"(",
    "empty": b"",
    "protocol 99": b"\x80\x63].",
    "items of a list": b"](K\x01K\x02u.",
    "an odd number of items": b"}(K\x01u.",
    "no opcode": b"\xff.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_attacks_the_reader_is_one_line(name):
    with pytest.raises(PlainPickleError) as caught:
        read_plain(HOSTILE[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"cposix\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02csubprocess\nPopen\n(S'true'\nt\x81.",
        b"}(S'__class__'\nS'x'\ndb.",
        b"\x80\x02\x82\x01.",
        b"Pos.system\n.",
        b"\x80\x02U\x02osQ.",
    ],
)
def test_whatever_calls_or_imports_is_forbidden(content):
    with pytest.raises(Forbidden):
        read_plain(content)
