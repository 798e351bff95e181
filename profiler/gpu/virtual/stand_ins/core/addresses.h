/* Which addresses of a span are taken, and where the next block goes. */
#ifndef VIRTUAL_GPU_ADDRESSES_H
#define VIRTUAL_GPU_ADDRESSES_H

#include "common.h"

struct extent {
    size_t start, bytes;
};
struct extents { /* by address, not touching where they may merge */
    struct extent *list;
    size_t count, capacity;
};
struct address_space {
    struct extents gaps;   /* what the operating system has not given out */
    struct extents chunks; /* what it has given */
    struct extents holes;  /* free parts of chunks */
    size_t chunk_bytes;    /* chunks are multiples of it */
    bool rising;
};

/* An empty span of `bytes`. Falling: as the driver for Linux does, seen in recorded addresses: chunks of
 * 32 MiB below each other, a block at the low end of its chunk, what is left of a chunk given out again from
 * the lowest on. Rising: as seen on other systems, blocks above each other without a gap. */
bool addresses_start(struct address_space *space, size_t bytes, bool rising);
bool addresses_take(struct address_space *space, size_t bytes, size_t *start);
void addresses_give_back(struct address_space *space, size_t start, size_t bytes);

#endif
