/* Elements of ncclDataType_t, and what ncclRedOp_t makes of them. */
#ifndef VIRTUAL_GPU_REDUCE_H
#define VIRTUAL_GPU_REDUCE_H

#include <stdbool.h>
#include <stddef.h>

size_t type_bytes(int type);
bool type_is_integer(int type);
/* In place: what it is after `ranks` that have the same. */
void reduce_alike(void *elements, size_t count, int type, int reduction, int ranks);
/* `ranks` parts one behind the other: the first becomes the result. */
void reduce_parts(void *parts, size_t count, int type, int reduction, int ranks);

#endif
