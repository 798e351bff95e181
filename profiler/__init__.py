"""Every byte of a PyTorch training step: measured, predicted, and explained."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiler.recording.loop import Recording, record, simulated_gpu

__version__ = "0.1.0"
__all__ = ["Recording", "__version__", "record", "simulated_gpu"]


def __getattr__(name: str) -> Any:
    """What needs more than the standard library is imported when it is first asked for."""
    if name in ("Recording", "record", "simulated_gpu"):
        from profiler.recording import loop as recording

        return getattr(recording, name)
    raise AttributeError(f"module 'profiler' has no attribute {name!r}")
