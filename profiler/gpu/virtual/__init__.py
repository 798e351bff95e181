"""The real CUDA build of torch on a machine without a GPU: stand-ins for the CUDA libraries, preloaded.

installation.py  which torch is installed, without importing it
elf.py           what its libraries ask of others
libraries.py     the CUDA libraries that have a stand-in
public_names/    the functions that each of them exports
stand_ins/       the stand-ins in C: core/ (card, memory, streams, kernels, journal), then a library each
compile.py       their compilation
private_cache.py the folder that keeps what was compiled
card_file.py     the GPUs of the machine, as the stand-ins read them
launch.py        a program on the virtual GPU
journal.py       what was called without being modelled, and what was assumed
"""
