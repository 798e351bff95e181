/* The kernels' own metadata. */
#ifndef VIRTUAL_GPU_FATBIN_H
#define VIRTUAL_GPU_FATBIN_H

#include "common.h"

/* The registers, the shared memory and the launch bounds (0: none) of a kernel in the fat binary that
 * __cudaRegisterFatBinary was given; whether they were found. binary_version is set where the binary has one
 * for the card. With the lock held. */
bool fat_binary_attributes(const void *wrapper, const char *name, struct kernel_attributes *attributes);

/* A module that the program loads itself: a kernel's ELF file, as Triton's, or a fat binary. What it says of its
 * kernels is read at once; the result stands for it as for a wrapper above. NULL: of another kind (PTX). */
const void *fat_binary_of_image(const void *image);
/* The same, where it is one. */
const void *fat_binary_if_one(const void *module);

#endif
