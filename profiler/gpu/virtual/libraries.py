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
    not_supported: what the library says to what it cannot do: to calls of the other functions that nobody
        wrote, so that no size or address is taken to be what memory held by chance.
    succeeds: a pattern of those of them that succeed instead.
    harmless: a pattern of functions that cannot change how much memory is taken, whatever they answer.
    always: a SONAME that programs open by name, without any library that asks for it.
    """

    name: str
    soname: str
    symbols: str
    without_effect: str
    not_supported: int
    succeeds: str = ""
    harmless: str = ""
    always: str | None = None


# Of the CUDA runtime and the driver: all but what gives memory, or says how much there should be.
_NO_MEMORY = r"(?!\w*([Aa]lloc|Size|Requirements|MemPool|Granularity))\w+"
_SILENT = r"\w*(Destroy|Set|Reset|Unregister|Release|Disable|Enable|Flush|Finalize|Unload)\w*"
LIBRARIES = (
    Library(
        "cudart",
        r"libcudart\.so\.\d+",
        r"(__)?cuda[A-Z]",
        _SILENT + r"|cuda(Profiler|MemPrefetch|MemAdvise)\w*",
        not_supported=801,
        succeeds=_NO_MEMORY,
    ),
    Library(
        "driver",
        r"libcuda\.so\.1",
        r"cu[A-Z](?!File)",
        _SILENT + r"|cu(Profiler|MemPrefetch|MemAdvise|Logs|Link(AddData|Destroy))\w*",
        not_supported=801,
        succeeds=_NO_MEMORY,
        always="libcuda.so.1",
    ),
    Library(
        "cublas",
        r"libcublas\.so\.\d+",
        r"cublas(?!Lt)",
        _SILENT + r"|cublas(?!Create|Get|Xt)\w*|cublas[SG]et(Vector|Matrix)\w*",
        not_supported=15,
    ),
    Library(
        "cublasLt",
        r"libcublasLt\.so\.\d+",
        r"cublasLt",
        _SILENT + r"|cublasLtMat(mul|rixTransform)|cublasLt\w+Init\w*|cublasLtLogger\w*",
        not_supported=15,
    ),
    Library("cudnn", r"libcudnn\.so\.9", r"cudnn", _SILENT, not_supported=3000),
    Library(
        "cusparse",
        r"libcusparse\.so\.\d+",
        r"cusparse(?!Lt)",
        _SILENT
        + r"|cusparse\w+(_solve|_analysis|_preprocess|_copy|_destroyDescr|SetPointers|Batch)"
        + r"|cusparse(SpMM|SpMV|SDDMM)"
        + r"|cusparse(X(coo2csr|coosortByRow|csrsort)|[SDCZ](bsrmm|bsrmv|csrgeam2))"
        + r"|cusparseCreateIdentityPermutation",
        not_supported=10,
    ),
    Library(
        "cusolver",
        r"libcusolver\.so\.\d+",
        r"cusolver",
        _SILENT + r"|cusolverDn(?!Create|Get)\w+(?<!bufferSize)(?<!bufferSizeExt)(?<!bufferSizeHost)",
        not_supported=9,
    ),
    Library("cufft", r"libcufft\.so\.\d+", r"cufft", _SILENT + r"|cufft(Xt)?Exec\w*", not_supported=16),
    Library("curand", r"libcurand\.so\.\d+", r"curand", _SILENT, not_supported=999),
    Library(
        "nvrtc",
        r"libnvrtc\.so\.\d+",
        r"nvrtc",
        _SILENT + r"|nvrtc(AddNameExpression|CompileProgram)",
        not_supported=11,
    ),
    Library(
        "cupti",
        r"libcupti\.so\.\d+",
        r"cupti",
        _SILENT + r"|cuptiActivity(Register|Push)\w*|cuptiUnsubscribe",
        not_supported=27,
        succeeds=r"\w+",
        harmless=r"\w+",
    ),
    Library(
        "nvml",
        r"libnvidia-ml\.so\.1",
        r"nvml",
        r"nvmlDeviceSet\w*",
        not_supported=3,
        harmless=r"\w+",
        always="libnvidia-ml.so.1",
    ),
    Library(
        "nccl",
        r"libnccl\.so\.2",
        r"p?nccl",
        _SILENT + r"|nccl(Group(Start|End)|CommDeregister|CommWindowDeregister|Send|Recv|RedOpDestroy)",
        not_supported=5,
        succeeds=r"\w+",
    ),
    Library("cufile", r"libcufile\.so\.0", r"cuFile", _SILENT, not_supported=5001),
    # What gives memory gives none: a null pointer.
    Library("nvshmem", r"libnvshmem_host\.so\.3", r"nvshmem", _SILENT, not_supported=0),
    Library(
        "cusparseLt",
        r"libcusparseLt\.so\.0",
        r"cusparseLt",
        _SILENT + r"|cusparseLt(Init|Matmul|MatmulSearch|Matmul\w+Init|SpMMACompress2)",
        not_supported=10,
    ),
)


def library_of(soname: str) -> Library | None:
    """The library with that SONAME, or None if it has no stand-in."""
    return next((library for library in LIBRARIES if re.fullmatch(library.soname, soname)), None)
