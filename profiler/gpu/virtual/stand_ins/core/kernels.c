/* The kernels that a program registers, and what host code asks of them. */
#include "fatbin.h"

#include <stdlib.h>
#include <string.h>

struct kernel {
    const void *host_function;
    const char *name;
    const void *fat_binary;
};

static struct kernel *kernels;
static size_t count, capacity, indexed;
static size_t *slots, slot_count; /* open addressing by host function: index + 1 */

API void vgpu_kernel_register(const void *host_function, const char *name, const void *fat_binary) {
    vgpu_lock();
    if (count == capacity) {
        size_t wanted = capacity ? capacity * 2 : 1 << 14;
        struct kernel *grown = realloc(kernels, wanted * sizeof *kernels);
        if (!grown) abort();
        kernels = grown;
        capacity = wanted;
    }
    kernels[count++] = (struct kernel){host_function, name, fat_binary};
    vgpu_unlock();
}

API bool vgpu_module_load(void **module, const void *image) {
    vgpu_lock();
    const void *read = image ? fat_binary_of_image(image) : NULL;
    vgpu_unlock();
    *module = read ? (void *)(uintptr_t)read : vgpu_new_handle();
    return *module;
}

API bool vgpu_module_kernel(void **kernel, void *module, const char *name) {
    char *copy = name ? strdup(name) : NULL; /* kept as the kernel is */
    *kernel = vgpu_new_handle();
    if (!*kernel || !copy) return *kernel;
    vgpu_lock();
    const void *read = fat_binary_if_one(module);
    vgpu_unlock();
    vgpu_kernel_register(*kernel, copy, read);
    return true;
}

static size_t slot_of(const void *host_function) {
    size_t slot = ((uintptr_t)host_function >> 4) * 0x9E3779B97F4A7C15ull % slot_count;
    while (slots[slot] && kernels[slots[slot] - 1].host_function != host_function) slot = (slot + 1) % slot_count;
    return slot;
}

static const struct kernel *find(const void *host_function) {
    if (indexed < count) { /* many are registered at once, few are asked for */
        if (slot_count < 2 * count) {
            free(slots);
            slot_count = 4 * count + 1;
            slots = calloc(slot_count, sizeof *slots);
            if (!slots) abort();
            indexed = 0;
        }
        for (; indexed < count; indexed++) slots[slot_of(kernels[indexed].host_function)] = indexed + 1;
    }
    if (!slot_count) return NULL;
    size_t slot = slot_of(host_function);
    return slots[slot] ? &kernels[slots[slot] - 1] : NULL;
}

API const char *vgpu_kernel_name(const void *host_function) {
    vgpu_lock();
    const struct kernel *kernel = find(host_function);
    const char *name = kernel ? kernel->name : NULL;
    vgpu_unlock();
    return name;
}

#define WARP 32
#define PARTITIONS 4 /* of a multiprocessor: each has a quarter of its registers */

/* Registers are given to a warp in multiples of 256 (cuda_occupancy.h). */
static int warps_by_registers(int registers) {
    int of_a_warp = (registers * WARP + 255) / 256 * 256;
    return of_a_warp ? PARTITIONS * (65536 / PARTITIONS / of_a_warp) : 1 << 16;
}

API void vgpu_kernel_attributes(const void *host_function, struct kernel_attributes *attributes) {
    const struct card *card = vgpu_card();
    *attributes = (struct kernel_attributes){.binary_version = card->major * 10 + card->minor};
    vgpu_lock();
    const struct kernel *kernel = find(host_function);
    bool known = kernel && fat_binary_attributes(kernel->fat_binary, kernel->name, attributes);
    vgpu_unlock();
    if (!known) {
        JOURNAL(ASSUMED, "a kernel whose metadata cannot be read has 32 registers and no shared memory");
        attributes->registers = 32;
    }
    int most = warps_by_registers(attributes->registers) * WARP;
    if (most > 1024) most = 1024;
    int bound = attributes->max_threads_per_block;
    attributes->max_threads_per_block = bound && bound < most ? bound : most;
}

/* The tightest of threads, blocks, registers and shared memory, as cuda_occupancy.h computes it. */
API int vgpu_kernel_blocks_per_multiprocessor(const void *host_function, int threads, size_t dynamic_shared_bytes) {
    const struct card *card = vgpu_card();
    struct kernel_attributes attributes;
    vgpu_kernel_attributes(host_function, &attributes);
    if (threads < 1 || threads > attributes.max_threads_per_block) return 0;
    int warps = (threads + WARP - 1) / WARP;
    int blocks = card->threads_per_multiprocessor / WARP / warps;
    if (blocks > card->blocks_per_multiprocessor) blocks = card->blocks_per_multiprocessor;
    int by_registers = warps_by_registers(attributes.registers) / warps;
    if (by_registers < blocks) blocks = by_registers;
    size_t unit = card->shared_memory_unit_bytes ? card->shared_memory_unit_bytes : 128;
    size_t shared = attributes.shared_bytes + dynamic_shared_bytes + card->reserved_shared_memory_per_block_bytes;
    shared = (shared + unit - 1) / unit * unit;
    if (shared) {
        int by_shared = (int)(card->shared_memory_per_multiprocessor_bytes / shared);
        if (by_shared < blocks) blocks = by_shared;
    }
    return blocks;
}
