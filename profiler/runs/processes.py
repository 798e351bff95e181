"""Any function in a fresh process: what it returns, how far it is, and how it died.

Processes are forked from a server that has the libraries imported already (profiler.runs.servers). A process
ends with its parent, whatever ended that one, and nothing is imported from the current folder.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing import forkserver, resource_tracker, spawn
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError, first_line

_also_preloaded: list[str] = []
# Python puts no current folder in front of what it imports, so that a torch.py there is not run.
_SAFE_PATH = "PYTHONSAFEPATH"
# Asking CUDA how many devices there are would spoil the server for all that it forks; NVML may be asked.
_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


@dataclass(frozen=True)
class Server:
    """What a server has done before it forks: `imports` a module, with `variables` in its environment."""

    imports: str
    variables: tuple[tuple[str, str], ...] = ()


ORDINARY = Server("profiler.runs.servers.ordinary")


class Died(ProfilerError):
    """A process that ended before its function did.

    Attributes:
        signal: what ended it, as in signal.SIGKILL; 0 where it exited by itself.
    """

    def __init__(self, message: str, signal_number: int = 0) -> None:
        super().__init__(message)
        self.signal = signal_number

    @property
    def killed(self) -> bool:
        """Whether the operating system did, as when memory runs out."""
        return self.signal == signal.SIGKILL


def in_fresh_process(
    function: Callable[..., Any],
    *arguments: Any,
    name: str,
    on_phase: Callable[[int], None] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
    server: Server = ORDINARY,
    heard: Callable[[str], None] | None = None,
) -> Any:
    """What `function(*arguments)` returns in a process of its own, which prints nowhere.

    Args:
        function: of a module, with arguments and a result that can be pickled.
        name: of what is done, for messages.
        on_phase: if given, `function` is called with a keyword `on_phase` too: a function whose calls are
            repeated here, with what it was told.
        environment: variables that the process has beside this one's from its start.
        timeout_seconds: a process that is silent for so long is ended.
        server: what forks the process, if no `environment` asks for one that does not come from any.
        heard: if given, told at the end what the process printed.

    Raises:
        ProfilerError: the function raised it, or the process was silent for too long.
        Died: the process ended otherwise; says the last line that it wrote.
    """
    with tempfile.NamedTemporaryFile(prefix="profiler-", suffix=".log") as log:
        arguments = (log.name, function, arguments, on_phase is not None)
        process, receiver = _started(arguments, dict(environment or {}), server)
        try:
            kind, content = _listen(receiver, on_phase, timeout_seconds)
        except TimeoutError:
            raise ProfilerError(f"{name} said nothing for {timeout_seconds:.0f} s and was ended") from None
        else:
            process.join()
        finally:
            _end(process)
            receiver.close()
            if heard is not None:
                heard(Path(log.name).read_text(errors="replace"))
        _stop_if_closed()
        if kind == "error":
            raise ProfilerError(content)
        if kind == "result":
            return content
        if process.exitcode == -signal.SIGKILL:
            message = f"{name} was killed by the operating system, as it does when memory runs out"
        else:
            message = f"{name} failed: {_last_line(Path(log.name))} (exit code {process.exitcode})"
        raise Died(message, max(0, -(process.exitcode or 0)))


def preload(modules: Iterable[str]) -> None:
    """Let the processes of many runs find these imported too; without effect once the first has started."""
    _also_preloaded.extend(modules)


def each_in_fresh_process(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], name: str, processes: int | None = None
) -> Iterator[Any]:
    """What `function(*job)` returns for each job, in order, a few at a time (by default one a processor).

    Raises as `in_fresh_process` does, at the first job that fails.
    """
    with threads_side_by_side(processes) as threads:
        futures = [threads.submit(in_fresh_process, function, *job, name=name) for job in jobs]
        for future in futures:
            yield future.result()


@contextmanager
def threads_side_by_side(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads (one a processor unless said) that may each wait for a fresh process.

    An error inside the block, Ctrl-C too, ends their processes at once and starts no other.
    """
    group = _Group()
    pool = ThreadPoolExecutor(threads or os.cpu_count(), initializer=group.join)
    try:
        yield pool
    except BaseException:
        group.close()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class _Group:
    """The processes that a pool of threads waits for."""

    def __init__(self) -> None:
        self.closed = False
        self.lock = threading.Lock()
        self.processes: set[Any] = set()

    def join(self) -> None:
        """Make this thread one of the group."""
        _thread.group = self

    def close(self) -> None:
        with self.lock:
            self.closed = True
            for process in self.processes:
                process.kill()


_thread = threading.local()  # `group`: the _Group that a thread belongs to
_starting = threading.Lock()  # the environment is changed while a process starts


def _stop_if_closed() -> None:
    group: _Group | None = getattr(_thread, "group", None)
    if group is not None and group.closed:
        raise ProfilerError("stopped")


def _started(
    arguments: tuple[Any, ...], environment: dict[str, str], server: Server
) -> tuple[Any, Connection]:
    """A process that runs `_serve`, and where it will speak."""
    group: _Group | None = getattr(_thread, "group", None)
    own = {_SAFE_PATH: os.environ.get(_SAFE_PATH)}
    forked = not environment and "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
    with _starting, _surroundings({**environment, _SAFE_PATH: "1"}):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(sender, own, *arguments))
        _stop_if_closed()
        try:
            with _served_by(server) if forked else nullcontext():
                process.start()
        except (EOFError, OSError) as error:  # the server is dead, or there is no memory for one
            raise Died(f"no process can be started ({first_line(error)}){_limited()}") from None
    sender.close()
    if group is not None:
        with group.lock:
            group.processes.add(process)
            if group.closed:
                process.kill()
    return process, receiver


def _end(process: Any) -> None:
    """Kill what still runs, and wait for it."""
    process.kill()
    process.join()
    group: _Group | None = getattr(_thread, "group", None)
    if group is not None:
        with group.lock:
            group.processes.discard(process)


_servers: dict[Server, forkserver.ForkServer] = {}


@contextmanager
def _served_by(server: Server) -> Iterator[None]:
    """Inside, processes are forked from `server`, which is started if need be; it has no CUDA context."""
    running = _servers.setdefault(server, forkserver.ForkServer())
    running.set_forkserver_preload([server.imports, *_also_preloaded])
    before = {name: os.environ.get(name) for name, _ in server.variables}
    os.environ.update(server.variables)
    try:
        running.ensure_running()  # keeps Ctrl-C blocked, for all that it forks
    finally:
        _set_environment(before)
    # It answers when its imports are over: the wait for that may be interrupted.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    of_all = forkserver.connect_to_new_process
    forkserver.connect_to_new_process = running.connect_to_new_process
    try:
        yield
    finally:
        forkserver.connect_to_new_process = of_all


def _forget_servers() -> None:
    """A process that another library forks is no parent of the servers, and starts its own."""
    for server in _servers.values():
        alive: int | None = server._forkserver_alive_fd  # type: ignore[attr-defined]
        if alive is not None:
            os.close(alive)
    _servers.clear()


os.register_at_fork(after_in_child=_forget_servers)


@contextmanager
def _surroundings(environment: Mapping[str, str]) -> Iterator[None]:
    """What a process started in here inherits: this environment, and no Ctrl-C (its parent ends it).

    The program is not imported in it once more: what is called is in a module, and a script without
    `if __name__ == "__main__"` would start itself again.
    """
    changed = {_NVML: "1", **environment}
    before = {name: os.environ.get(name) for name in changed}
    prepared = spawn.get_preparation_data
    os.environ.update(changed)
    resource_tracker.ensure_running()  # it would unblock Ctrl-C where it is started by the process itself
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    spawn.get_preparation_data = lambda name: {
        key: value for key, value in prepared(name).items() if not key.startswith("init_main")
    }
    try:
        yield
    finally:
        spawn.get_preparation_data = prepared
        _set_environment(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _serve(
    sender: Connection,
    environment: Mapping[str, str | None],
    log: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    reports: bool,
) -> None:
    """The inside of the process: messages are ("phase", what), then ("result", it) or ("error", a line)."""
    signal.signal(signal.SIGINT, lambda number, frame: None)  # programs that it starts get it all the same
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _set_environment(environment)
    # What is imported stays. Looking for garbage in it takes longer than a small simulation.
    gc.freeze()
    options = {"on_phase": lambda phase: sender.send(("phase", phase))} if reports else {}
    with output_to(log):
        try:
            message = ("result", function(*arguments, **options))
        except ProfilerError as error:
            message = ("error", str(error))
        sender.send(message)


def _end_with_parent() -> None:
    """However the parent ends, killed too: its end of a pipe is closed then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connections.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def output_to(log: str) -> Iterator[None]:
    """Send this process's standard output and error, C++'s included, to a file."""
    with open(log, "ab", buffering=0) as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield


def _listen(
    receiver: Connection, on_phase: Callable[[int], None] | None, timeout_seconds: float | None
) -> tuple[str, Any]:
    """The process's last message; ("died", None) without one. Raises TimeoutError after so long a silence."""
    while True:
        if not receiver.poll(timeout_seconds):
            raise TimeoutError
        try:
            kind, content = receiver.recv()
        except EOFError:
            return "died", None
        if kind != "phase":
            return kind, content
        if on_phase is not None:
            on_phase(content)


def _last_line(log: Path) -> str:
    """What a process said last, before it died."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if lines:
        return lines[-1]
    return f"the process ended without a word{_limited()}"


def _limited() -> str:
    """What explains much."""
    is_limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return "; its memory is limited (ulimit -v)" if is_limited else ""
