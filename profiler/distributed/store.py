"""The key-value store of torch.distributed for one rank of many: it answers for the ranks that are not there.

It speaks the protocol of TCPStore (torch/csrc/distributed/c10d/TCPStore.cpp and TCPStoreBackend.hpp), so that
the program's own init_process_group finds it under MASTER_ADDR and MASTER_PORT. What this rank sets is kept.
What it waits for is there at once; what it reads of others is an identifier of 128 bytes, as a rank 0 would
have made it for NCCL.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from profiler.errors import ProfilerError

_MOST_BYTES = 64 << 20
_IDENTIFIER = b"lone-rank".ljust(128, b"\0")
_READY, _NOT_READY, _STOP_WAITING, _WAIT_CANCELED = b"\0", b"\1", b"\0", b"\1"


class LoneRankStore:
    """The store, served on a port of this machine while the context lasts.

    answered: the keys that were read although no rank had set them.
    """

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._queues: dict[bytes, list[bytes]] = {}
        self._lock = threading.Lock()
        self.answered: set[str] = set()
        store = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    _Connection(store, self.rfile.read, self.wfile.write).serve()
                except (OSError, struct.error):  # the program has ended
                    return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        try:
            self._server = Server(("127.0.0.1", 0), Handler)
        except OSError as error:
            raise ProfilerError(f"no port on this machine for the ranks' store: {error.strerror}") from error

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._server.server_address[1])

    def __enter__(self) -> LoneRankStore:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def set(self, key: bytes, value: bytes) -> None:
        with self._lock:
            self._values[key] = value

    def get(self, key: bytes) -> bytes:
        with self._lock:
            if key not in self._values:
                self.answered.add(key.decode(errors="replace"))
            return self._values.get(key, _IDENTIFIER)

    def add(self, key: bytes, amount: int) -> int:
        with self._lock:
            total = int(self._values.get(key, b"0")) + amount
            self._values[key] = str(total).encode()
            return total

    def compare_set(self, key: bytes, expected: bytes, desired: bytes) -> bytes:
        with self._lock:
            if self._values.get(key, b"") == expected:
                self._values[key] = desired
            return self._values.get(key, expected)

    def append(self, key: bytes, value: bytes) -> None:
        with self._lock:
            self._values[key] = self._values.get(key, b"") + value

    def has(self, keys: list[bytes]) -> bool:
        with self._lock:
            return all(key in self._values for key in keys)

    def delete(self, key: bytes) -> bool:
        with self._lock:
            return self._values.pop(key, None) is not None

    def count(self) -> int:
        with self._lock:
            return len(self._values)

    def queue(self, key: bytes) -> list[bytes]:
        return self._queues.setdefault(key, [])


class _Connection:
    """One client's questions. The queries are numbered as in `enum class QueryType`, in this order."""

    def __init__(
        self, store: LoneRankStore, read: Callable[[int], bytes], write: Callable[[bytes], object]
    ) -> None:
        self._store, self._read, self._write = store, read, write
        self._answers = (
            lambda: self._number("<I"),  # VALIDATE
            lambda: store.set(self._bytes(), self._bytes()),
            lambda: self._say(store.compare_set(self._bytes(), self._bytes(), self._bytes())),
            lambda: self._say(store.get(self._bytes())),
            lambda: self._say_number(store.add(self._bytes(), self._number("<q"))),
            lambda: write(_READY if store.has(self._list()) else _NOT_READY),  # CHECK
            lambda: (self._list(), write(_STOP_WAITING)),  # WAIT
            lambda: self._say_number(store.count()),
            lambda: self._say_number(int(store.delete(self._bytes()))),
            lambda: store.append(self._bytes(), self._bytes()),
            self._get_many,
            self._set_many,
            lambda: write(_WAIT_CANCELED),  # CANCEL_WAIT
            lambda: write(struct.pack("<I", self._number("<I"))),  # PING
            lambda: store.queue(self._bytes()).append(self._bytes()),  # QUEUE_PUSH
            self._pop,
            lambda: self._say_number(len(store.queue(self._bytes()))),
        )

    def serve(self) -> None:
        """Answers until the client is gone."""
        while query := self._read(1):
            if query[0] >= len(self._answers):
                raise ProfilerError(
                    f"the store of a lone rank does not know query {query[0]} of this torch's TCPStore"
                )
            self._answers[query[0]]()

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._read(struct.calcsize(layout)))[0])

    def _length(self) -> int:
        length = self._number("<Q")
        if length > _MOST_BYTES:
            raise OSError("a value of more than 64 MiB")
        return length

    def _bytes(self) -> bytes:
        return self._read(self._length())

    def _list(self) -> list[bytes]:
        return [self._bytes() for _ in range(self._length())]

    def _say(self, value: bytes) -> None:
        self._write(struct.pack("<Q", len(value)) + value)

    def _say_number(self, value: int) -> None:
        self._write(struct.pack("<q", value))

    def _get_many(self) -> None:
        for key in self._list():
            self._say(self._store.get(key))

    def _set_many(self) -> None:
        for _ in range(self._length()):
            self._store.set(self._bytes(), self._bytes())

    def _pop(self) -> None:
        queue = self._store.queue(self._bytes())
        self._say_number(len(queue))
        if queue:
            self._say(queue.pop(0))
