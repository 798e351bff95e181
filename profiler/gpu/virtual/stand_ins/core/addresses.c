/* Where blocks go in a span of addresses. Offsets and sizes are multiples of 2 MiB. */
#include "addresses.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK (32 * MIB)
#define PAGE (2 * MIB)

/* The first extent that ends behind `start`. */
static size_t place_of(const struct extents *extents, size_t start) {
    size_t low = 0, high = extents->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (extents->list[middle].start + extents->list[middle].bytes <= start) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void drop(struct extents *extents, size_t place) {
    extents->count--;
    memmove(&extents->list[place], &extents->list[place + 1], (extents->count - place) * sizeof *extents->list);
}

static void insert(struct extents *extents, struct extent extent) {
    if (extents->count == extents->capacity) {
        size_t wanted = extents->capacity ? 2 * extents->capacity : 64;
        struct extent *grown = realloc(extents->list, wanted * sizeof *grown);
        if (!grown) abort();
        extents->list = grown;
        extents->capacity = wanted;
    }
    size_t place = place_of(extents, extent.start);
    memmove(&extents->list[place + 1], &extents->list[place], (extents->count - place) * sizeof extent);
    extents->list[place] = extent;
    extents->count++;
}

/* Adds an extent, merged with its neighbours inside [low, high). */
static struct extent merge(struct extents *extents, struct extent extent, size_t low, size_t high) {
    size_t place = place_of(extents, extent.start);
    if (place < extents->count && extent.start + extent.bytes == extents->list[place].start &&
        extent.start + extent.bytes < high) {
        extent.bytes += extents->list[place].bytes;
        drop(extents, place);
    }
    if (place > 0 && extent.start > low) {
        struct extent before = extents->list[place - 1];
        if (before.start + before.bytes == extent.start) {
            extent = (struct extent){before.start, before.bytes + extent.bytes};
            drop(extents, place - 1);
        }
    }
    insert(extents, extent);
    return extent;
}

bool addresses_start(struct address_space *space, size_t bytes, bool rising) {
    *space = (struct address_space){.rising = rising, .chunk_bytes = rising ? PAGE : CHUNK};
    insert(&space->gaps, (struct extent){0, bytes / CHUNK * CHUNK});
    return space->gaps.list != NULL;
}

/* Takes the low end of a hole. */
static bool take_hole(struct extents *holes, size_t bytes, size_t *start) {
    for (size_t i = 0; i < holes->count; i++) {
        struct extent *hole = &holes->list[i];
        if (hole->bytes < bytes) continue;
        *start = hole->start;
        hole->start += bytes;
        hole->bytes -= bytes;
        if (!hole->bytes) drop(holes, i);
        return true;
    }
    return false;
}

/* Takes the high end of the highest gap. */
static bool take_gap_below(struct extents *gaps, size_t bytes, size_t *start) {
    for (size_t i = gaps->count; i > 0; i--) {
        struct extent *gap = &gaps->list[i - 1];
        if (gap->bytes < bytes) continue;
        gap->bytes -= bytes;
        *start = gap->start + gap->bytes;
        if (!gap->bytes) drop(gaps, i - 1);
        return true;
    }
    return false;
}

bool addresses_take(struct address_space *space, size_t bytes, size_t *start) {
    if (take_hole(&space->holes, bytes, start)) return true;
    size_t chunk = (bytes + space->chunk_bytes - 1) / space->chunk_bytes * space->chunk_bytes;
    bool found = space->rising ? take_hole(&space->gaps, chunk, start) : take_gap_below(&space->gaps, chunk, start);
    if (!found) return false;
    insert(&space->chunks, (struct extent){*start, chunk});
    if (chunk > bytes) insert(&space->holes, (struct extent){*start + bytes, chunk - bytes});
    return true;
}

void addresses_give_back(struct address_space *space, size_t start, size_t bytes) {
    size_t place = place_of(&space->chunks, start);
    if (place == space->chunks.count) return;
    struct extent chunk = space->chunks.list[place];
    struct extent hole = merge(&space->holes, (struct extent){start, bytes}, chunk.start, chunk.start + chunk.bytes);
    if (hole.start != chunk.start || hole.bytes != chunk.bytes) return;
    drop(&space->holes, place_of(&space->holes, start));
    drop(&space->chunks, place);
    merge(&space->gaps, chunk, 0, SIZE_MAX);
}
