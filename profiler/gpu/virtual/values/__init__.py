"""Values on the host: what a program on the virtual GPU reads back.

Kernels do not run there, but device memory is host memory. So after the real CUDA kernel function of an
operation has run (and allocated what it allocates on the card), integers, booleans and a few floats are
computed on the CPU and written where the kernel would have written them. Masks, token ids, positions, shapes
and counters are then true, and branches that depend on them go the right way.

A value is *known* when all that it depends on is known and small. Others are not computed: where the host
reads one, it gets what a healthy run could have given, and the read is written down with its line.

- `known`     which device memory holds known values
- `host`      a CPU tensor over device memory, and up to which size values are followed
- `assumptions`  what stands for a value that is not computed
- `operation` one operation: its schema, its values on the CPU, its kernel below an override
- `following` a CUDA kernel, and after it the values that it would have written
- `reading`   kernels through which the host reads device memory
- `answers`   what kernels read back inside, as a number of nonzero elements
- `kernels`   which kernels are wrapped, and how
- `hooks`     hooks that run in a backward pass
- `ending`    the end of the program
- `journal`   reads of values that were not computed, written by the program's process
- `reads`     the same, read by whoever ran the program

The package is loaded into the program by path (see ../inside), so its modules import each other relatively,
and beside them nothing but torch.
"""


def install() -> None:
    """Follow values in this process from its first use of the GPU on. Called once torch is imported."""
    import torch

    from .ending import rest_before_the_end
    from .hooks import follow_hooks

    def wrap() -> None:
        from . import kernels
        from .process import journal

        journal.open()
        kernels.wrap_all()

    torch.cuda._lazy_call(wrap)
    follow_hooks()
    rest_before_the_end()
