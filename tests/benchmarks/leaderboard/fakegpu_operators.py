"""Workspaces of single operators, as FanBB2333/FakeGPU measured them; a program for the virtual GPU.

After three calls: the peak of a fourth less what is allocated before or after it. Prints a line for each.
"""

from collections.abc import Callable

import torch


def workspace_bytes(call: Callable[[], torch.Tensor]) -> int:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    after = torch.cuda.memory_allocated()
    del result
    return torch.cuda.max_memory_allocated() - max(before, after)


def convolution_bytes(batch: int, channels: int, side: int, dtype: torch.dtype) -> int:
    images = torch.randn(batch, channels, side, side, device="cuda", dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device="cuda", dtype=dtype)
    return workspace_bytes(lambda: torch.nn.functional.conv2d(images, weight, padding=1))


if __name__ == "__main__":
    print("conv-bf16-n2-c64-h128-k64", convolution_bytes(2, 64, 128, torch.bfloat16))
    print("conv-fp32-n4-c128-h64-k128", convolution_bytes(4, 128, 64, torch.float32))
    matrix = torch.randn(1024, 1024, device="cuda")
    print("mm-fp32-1024", workspace_bytes(lambda: matrix @ matrix))
