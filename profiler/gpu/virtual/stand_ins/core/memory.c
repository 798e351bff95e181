/* Device memory: addresses out of a reserved range, backed by host memory that is committed when first written.
 *
 * Each device has a span of the range, so that an address says its device.
 */
#include "addresses.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MOST ((size_t)1 << 46)     /* addresses of all devices together; a process has 2^47 */
#define LEAST ((size_t)1 << 38)    /* where a sanitizer or a small address space leaves less */
#define GRANULE (2 * MIB)          /* the driver gives memory in pages of 2 MiB */
#define ALIGNMENT (32 * MIB)       /* of the range: addresses.h */

struct block {
    char *start;
    size_t bytes; /* of addresses, whole granules */
    size_t charged_bytes;
};
struct blocks {
    struct block *list; /* by address */
    size_t count, capacity;
};
struct device {
    char *start;
    struct address_space space;
    size_t used_bytes;
    struct blocks blocks;
};

static struct device devices[MAX_DEVICES];
static size_t range_bytes, span_bytes, host_bytes;
static char *range;
static struct device host; /* pinned: behind the devices, so that it too is committed when written */

static size_t rounded(size_t bytes) { return (bytes + GRANULE - 1) / GRANULE * GRANULE; }

/* With the lock held. */
static bool ready(void) {
    if (range) return true;
    int count = vgpu_card()->devices;
    if (count < 1) return false;
    void *reserved = MAP_FAILED;
    for (range_bytes = MOST; reserved == MAP_FAILED && range_bytes >= LEAST; range_bytes /= 2) {
        reserved = mmap(NULL, range_bytes + range_bytes / 8 + ALIGNMENT, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (reserved != MAP_FAILED) break;
    }
    if (reserved == MAP_FAILED) {
        fprintf(stderr, "virtual GPU: cannot reserve addresses; is `ulimit -v` set?\n");
        return false;
    }
    host_bytes = range_bytes / 8;
    madvise(reserved, range_bytes + host_bytes, MADV_NOHUGEPAGE); /* one byte written shall not commit 2 MiB */
    madvise(reserved, range_bytes + host_bytes, MADV_DONTDUMP);
    range = (char *)(((uintptr_t)reserved + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    for (span_bytes = range_bytes; span_bytes * (size_t)count > range_bytes;) span_bytes /= 2;
    for (int i = 0; i < count; i++) {
        devices[i].start = range + (size_t)i * span_bytes;
        addresses_start(&devices[i].space, span_bytes, vgpu_card()->rising_addresses);
    }
    host.start = range + range_bytes;
    addresses_start(&host.space, host_bytes, true);
    return true;
}

/* The place in the list of the block that holds the address, or where it would stand. */
static size_t position(const struct blocks *blocks, const char *address) {
    size_t low = 0, high = blocks->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (blocks->list[middle].start + blocks->list[middle].bytes <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static struct block *find(struct blocks *blocks, const void *address) {
    size_t place = position(blocks, address);
    bool inside = place < blocks->count && blocks->list[place].start <= (const char *)address;
    return inside ? &blocks->list[place] : NULL;
}

static bool insert(struct blocks *blocks, struct block block) {
    if (blocks->count == blocks->capacity) {
        size_t wanted = blocks->capacity ? 2 * blocks->capacity : 256;
        struct block *grown = realloc(blocks->list, wanted * sizeof *grown);
        if (!grown) return false;
        blocks->list = grown;
        blocks->capacity = wanted;
    }
    size_t place = position(blocks, block.start);
    memmove(&blocks->list[place + 1], &blocks->list[place], (blocks->count - place) * sizeof block);
    blocks->list[place] = block;
    blocks->count++;
    return true;
}

static void drop(struct blocks *blocks, struct block *block) {
    size_t place = (size_t)(block - blocks->list);
    memmove(block, block + 1, (blocks->count - place - 1) * sizeof *block);
    blocks->count--;
}

/* Free addresses of a span, or NULL. */
static char *place(struct device *device, size_t bytes) {
    size_t offset;
    return addresses_take(&device->space, bytes, &offset) ? device->start + offset : NULL;
}

static bool charge(int device, size_t bytes) {
    const struct card *card = vgpu_card();
    size_t taken = card->context_bytes + devices[device].used_bytes;
    if (taken > card->memory_bytes || bytes > card->memory_bytes - taken) return false;
    devices[device].used_bytes += bytes;
    vgpu_journal_peak(device, card->context_bytes + devices[device].used_bytes);
    return true;
}

static int allocate(void **address, struct device *span, size_t bytes, size_t charged) {
    size_t whole = rounded(bytes);
    char *start = whole < bytes ? NULL : place(span, whole);
    if (!start || mprotect(start, whole, PROT_READ | PROT_WRITE) ||
        !insert(&span->blocks, (struct block){start, whole, charged})) {
        return OUT_OF_MEMORY;
    }
    *address = start;
    return SUCCESS;
}

/* Without the lock: events/stream.c has one of its own. Before memory is given back, so that nobody has it again yet. */
static void tell(enum memory_change change, const void *address, size_t bytes) {
    if (events_memory) events_memory(change, address, bytes, vgpu_memory_device(address));
}

API int vgpu_memory_allocate(void **address, size_t bytes, int device) {
    if (!address) return INVALID_VALUE;
    *address = NULL;
    if (bytes == 0) return SUCCESS;
    int result = OUT_OF_MEMORY;
    vgpu_lock();
    if (ready() && device >= 0 && device < vgpu_card()->devices && bytes < span_bytes && charge(device, rounded(bytes))) {
        result = allocate(address, &devices[device], bytes, rounded(bytes));
        if (result) devices[device].used_bytes -= rounded(bytes);
    }
    vgpu_unlock();
    if (!result) tell(MEMORY_TAKEN, *address, rounded(bytes));
    return result;
}

API int vgpu_memory_take(size_t bytes, int device) {
    vgpu_lock();
    bool there = ready() && device >= 0 && device < vgpu_card()->devices && charge(device, rounded(bytes));
    vgpu_unlock();
    return there ? SUCCESS : OUT_OF_MEMORY;
}

API void vgpu_memory_give_back(size_t bytes, int device) {
    vgpu_lock();
    devices[device].used_bytes -= rounded(bytes);
    vgpu_unlock();
}

static int release(struct device *span, void *address) {
    struct block *block = find(&span->blocks, address);
    if (!block || block->start != address) return INVALID_VALUE;
    madvise(block->start, block->bytes, MADV_DONTNEED);
    mprotect(block->start, block->bytes, PROT_NONE);
    addresses_give_back(&span->space, (size_t)(block->start - span->start), block->bytes);
    span->used_bytes -= block->charged_bytes;
    drop(&span->blocks, block);
    return SUCCESS;
}

API bool vgpu_memory_owns(const void *address) {
    const char *at = address;
    return range && at >= range && at < range + range_bytes;
}

API bool vgpu_memory_owns_host(const void *address) {
    const char *at = address;
    return range && at >= range + range_bytes && at < range + range_bytes + host_bytes;
}

API int vgpu_memory_device(const void *address) {
    return vgpu_memory_owns(address) ? (int)((size_t)((const char *)address - range) / span_bytes) : -1;
}

API int vgpu_memory_free(void *address) {
    if (!address) return SUCCESS;
    int device = vgpu_memory_device(address);
    void *start;
    size_t bytes;
    if (!vgpu_memory_block(address, &start, &bytes) || start != address) return INVALID_VALUE;
    tell(MEMORY_GIVEN_BACK, start, bytes);
    vgpu_lock();
    int result = release(&devices[device], address);
    vgpu_unlock();
    return result;
}

API size_t vgpu_memory_used(int device) { return devices[device].used_bytes; }

API size_t vgpu_memory_free_bytes(int device) {
    const struct card *card = vgpu_card();
    size_t taken = card->context_bytes + devices[device].used_bytes;
    return taken < card->memory_bytes ? card->memory_bytes - taken : 0;
}

API bool vgpu_memory_block(const void *address, void **start, size_t *bytes) {
    int device = vgpu_memory_device(address);
    if (device < 0) return false;
    vgpu_lock();
    struct block *block = find(&devices[device].blocks, address);
    if (block) {
        *start = block->start;
        *bytes = block->bytes;
    }
    vgpu_unlock();
    return block != NULL;
}

API int vgpu_memory_host_allocate(void **address, size_t bytes) {
    vgpu_lock();
    int result = ready() ? allocate(address, &host, bytes ? bytes : 1, 0) : NO_DEVICE;
    vgpu_unlock();
    return result;
}

API int vgpu_memory_host_free(void *address) {
    if (!address) return SUCCESS;
    vgpu_lock();
    int result = release(&host, address);
    vgpu_unlock();
    return result;
}

API int vgpu_memory_reserve(void **address, size_t bytes, int device) {
    vgpu_lock();
    char *start = ready() && bytes ? place(&devices[device], rounded(bytes)) : NULL;
    vgpu_unlock();
    *address = start;
    return start ? SUCCESS : OUT_OF_MEMORY;
}

API int vgpu_memory_unreserve(void *address, size_t bytes) {
    int device = vgpu_memory_device(address);
    if (device < 0) return INVALID_VALUE;
    vgpu_lock();
    addresses_give_back(&devices[device].space, (size_t)((char *)address - devices[device].start), rounded(bytes));
    vgpu_unlock();
    return SUCCESS;
}

struct physical {
    size_t bytes;
    int device;
    int references; /* the handle's own, and one of each mapping */
};

static void unreference(struct physical *physical) {
    if (--physical->references) return;
    devices[physical->device].used_bytes -= physical->bytes;
    free(physical);
}

API int vgpu_memory_create(uint64_t *handle, size_t bytes, int device) {
    struct physical *physical = malloc(sizeof *physical);
    int result = OUT_OF_MEMORY;
    vgpu_lock();
    if (physical && ready() && device >= 0 && device < vgpu_card()->devices && charge(device, rounded(bytes))) {
        *physical = (struct physical){rounded(bytes), device, 1};
        *handle = (uint64_t)(uintptr_t)physical;
        result = SUCCESS;
    }
    vgpu_unlock();
    if (result) free(physical);
    return result;
}

API int vgpu_memory_release(uint64_t handle) {
    vgpu_lock();
    unreference((struct physical *)(uintptr_t)handle);
    vgpu_unlock();
    return SUCCESS;
}

/* What is mapped where, so that unmapping gives the physical memory back. */
struct mapping {
    char *start;
    size_t bytes;
    struct physical *physical;
    struct mapping *next;
};
static struct mapping *mappings;

API int vgpu_memory_map(void *address, size_t bytes, uint64_t handle) {
    struct mapping *mapping = malloc(sizeof *mapping);
    if (!mapping || mprotect(address, bytes, PROT_READ | PROT_WRITE)) {
        free(mapping);
        return INVALID_VALUE;
    }
    vgpu_lock();
    struct physical *physical = (struct physical *)(uintptr_t)handle;
    physical->references++;
    *mapping = (struct mapping){address, bytes, physical, mappings};
    mappings = mapping;
    vgpu_unlock();
    tell(MEMORY_MAPPED, address, bytes);
    return SUCCESS;
}

API int vgpu_memory_unmap(void *address, size_t bytes) {
    char *start = address;
    tell(MEMORY_UNMAPPED, address, bytes);
    vgpu_lock();
    for (struct mapping **link = &mappings; *link;) {
        struct mapping *mapping = *link;
        if (mapping->start >= start && mapping->start + mapping->bytes <= start + bytes) {
            *link = mapping->next;
            unreference(mapping->physical);
            free(mapping);
        } else {
            link = &mapping->next;
        }
    }
    vgpu_unlock();
    madvise(address, bytes, MADV_DONTNEED);
    return mprotect(address, bytes, PROT_NONE) ? INVALID_VALUE : SUCCESS;
}
