"""The CUDA libraries that have a stand-in: which symbols are whose, and what their unwritten functions do."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """One library.

    name: of its sources (stand_ins/NAME.c or stand_ins/NAME/) and of its list in public_names/.
    soname: a pattern of its SONAMEs.
    symbols: a pattern of its functions' names, for symbols that ask for no version.
    without_effect: a pattern of functions that take no memory and answer nothing: computing, setting,
        destroying. They succeed, and are not written to the journal.
    result: what the other functions that nobody wrote give back; success unless the library can say that
        something is not supported.
    always: a SONAME that programs open by name, without any library that asks for it.
    """

    name: str
    soname: str
    symbols: str
    without_effect: str
    result: int = 0
    always: str | None = None


_SILENT = r"\w*(Destroy|Set|Reset|Unregister|Release|Disable|Enable|Flush|Finalize|Unload)\w*"
LIBRARIES = (
    Library(
        "cudart",
        r"libcudart\.so\.\d+",
        r"(__)?cuda[A-Z]",
        _SILENT + r"|cuda(Profiler|MemPrefetch|MemAdvise)\w*",
    ),
    Library(
        "driver",
        r"libcuda\.so\.1",
        r"cu[A-Z](?!File)",
        _SILENT + r"|cu(Profiler|MemPrefetch|MemAdvise|Logs|Link(AddData|Destroy))\w*",
        always="libcuda.so.1",
    ),
    Library(
        "cublas",
        r"libcublas\.so\.\d+",
        r"cublas(?!Lt)",
        _SILENT + r"|cublas(?!Create|Get|Xt)\w*|cublas[SG]et(Vector|Matrix)\w*",
    ),
    Library(
        "cublasLt",
        r"libcublasLt\.so\.\d+",
        r"cublasLt",
        _SILENT + r"|cublasLtMat(mul|rixTransform)|cublasLt\w+Init\w*|cublasLtLogger\w*",
    ),
    Library("cudnn", r"libcudnn\.so\.9", r"cudnn", _SILENT),
    Library(
        "cusparse",
        r"libcusparse\.so\.\d+",
        r"cusparse(?!Lt)",
        _SILENT
        + r"|cusparse\w+(_solve|_analysis|_preprocess|_copy|SetPointers|Batch)|cusparse(SpMM|SpMV|SDDMM)"
        + r"|cusparse(X(coo2csr|coosortByRow|csrsort)|[SDCZ](bsrmm|bsrmv|csrgeam2))"
        + r"|cusparseCreateIdentityPermutation",
    ),
    Library(
        "cusolver",
        r"libcusolver\.so\.\d+",
        r"cusolver",
        _SILENT + r"|cusolverDn(?!Create|Get)\w+(?<!bufferSize)(?<!bufferSizeExt)",
    ),
    Library("cufft", r"libcufft\.so\.\d+", r"cufft", _SILENT + r"|cufft(Xt)?Exec\w*"),
    Library("curand", r"libcurand\.so\.\d+", r"curand", _SILENT),
    Library("nvrtc", r"libnvrtc\.so\.\d+", r"nvrtc", _SILENT + r"|nvrtc(AddNameExpression|CompileProgram)"),
    Library(
        "cupti",
        r"libcupti\.so\.\d+",
        r"cupti",
        _SILENT + r"|cuptiActivity(Register|Push)\w*|cuptiUnsubscribe",
    ),
    Library(
        "nvml", r"libnvidia-ml\.so\.1", r"nvml", r"nvmlDeviceSet\w*", result=3, always="libnvidia-ml.so.1"
    ),
    Library(
        "nccl",
        r"libnccl\.so\.2",
        r"p?nccl",
        _SILENT + r"|nccl(Group(Start|End)|CommDeregister|CommWindowDeregister|Send|Recv|RedOpDestroy)",
    ),
    Library("cufile", r"libcufile\.so\.0", r"cuFile", _SILENT, result=5001),
    Library("nvshmem", r"libnvshmem_host\.so\.3", r"nvshmem", _SILENT),
    Library(
        "cusparseLt",
        r"libcusparseLt\.so\.0",
        r"cusparseLt",
        _SILENT + r"|cusparseLt(Init|Matmul|MatmulSearch|Matmul\w+Init|SpMMACompress2)",
    ),
)


def library_of(soname: str) -> Library | None:
    """The library with that SONAME, or None if it has no stand-in."""
    return next((library for library in LIBRARIES if re.fullmatch(library.soname, soname)), None)
