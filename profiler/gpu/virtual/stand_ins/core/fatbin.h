/* The kernels' own metadata. */
#ifndef VIRTUAL_GPU_FATBIN_H
#define VIRTUAL_GPU_FATBIN_H

#include "common.h"

/* The registers, the shared memory and the launch bounds (0: none) of a kernel in the fat binary that
 * __cudaRegisterFatBinary was given; whether they were found. binary_version is set where the binary has one
 * for the card. With the lock held. */
bool fat_binary_attributes(const void *wrapper, const char *name, struct kernel_attributes *attributes);

#endif
