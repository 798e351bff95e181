/* CUDA runtime: memory. */
#include "common.h"

API int cudaMalloc(void **address, size_t bytes) { return vgpu_failed(vgpu_memory_allocate(address, bytes, vgpu_current_device())); }

API int cudaFree(void *address) { return vgpu_failed(vgpu_memory_free(address)); }

API int cudaMallocManaged(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    JOURNAL(ASSUMED, "managed memory counts as device memory");
    return cudaMalloc(address, bytes);
}

API int cudaMallocPitch(void **address, size_t *pitch, size_t width, size_t height) {
    *pitch = (width + 511) / 512 * 512;
    return cudaMalloc(address, *pitch * height);
}

API int cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    return vgpu_failed(vgpu_memory_host_allocate(address, bytes));
}

API int cudaMallocHost(void **address, size_t bytes) { return cudaHostAlloc(address, bytes, 0); }

API int cudaFreeHost(void *address) { return vgpu_failed(vgpu_memory_host_free(address)); }

API int cudaHostRegister(void *address, size_t bytes, unsigned flags) {
    (void)address, (void)bytes, (void)flags;
    return SUCCESS;
}

API int cudaHostUnregister(void *address) {
    (void)address;
    return SUCCESS;
}

API int cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
    (void)flags;
    *device = host;
    return SUCCESS;
}

API int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    if (vgpu_card()->devices < 1) return vgpu_failed(NO_DEVICE);
    *free_bytes = vgpu_memory_free_bytes(vgpu_current_device());
    *total_bytes = vgpu_card()->memory_bytes;
    return SUCCESS;
}

API int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    (void)kind;
    int waited = vgpu_wait_for_data(NULL);
    if (waited) return vgpu_failed(waited);
    vgpu_memory_copy(to, from, bytes);
    return SUCCESS;
}

API int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return vgpu_failed(waited);
    return cudaMemcpy(to, from, bytes, kind);
}

API int cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes) {
    (void)to_device, (void)from_device;
    return cudaMemcpy(to, from, bytes, 4);
}

API int cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return vgpu_failed(waited);
    return cudaMemcpyPeer(to, to_device, from, from_device, bytes);
}

API int cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, int kind) {
    (void)kind;
    for (size_t row = 0; row < height; row++) {
        vgpu_memory_copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    }
    return SUCCESS;
}

API int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                          int kind, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return vgpu_failed(waited);
    return cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}

API int cudaMemset(void *to, int value, size_t bytes) {
    vgpu_memory_fill(to, value, bytes);
    return SUCCESS;
}

API int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return vgpu_failed(waited);
    return cudaMemset(to, value, bytes);
}

/* The first fields of struct cudaPointerAttributes, the same in CUDA 12 and 13. */
struct pointer_attributes {
    int type; /* 0 of no kind, 1 host, 2 device */
    int device;
    void *device_pointer, *host_pointer;
};

API int cudaPointerGetAttributes(struct pointer_attributes *attributes, const void *address) {
    void *plain = (void *)(uintptr_t)address;
    if (vgpu_memory_owns(address)) {
        *attributes = (struct pointer_attributes){2, vgpu_memory_device(address), plain, NULL};
    } else if (vgpu_memory_owns_host(address)) {
        *attributes = (struct pointer_attributes){1, 0, plain, plain};
    } else {
        *attributes = (struct pointer_attributes){0, -2, NULL, plain};
    }
    return SUCCESS;
}

/* Other processes cannot open it: their device memory is their own. */
API int cudaIpcGetMemHandle(void *handle, void *address) {
    void *start;
    size_t bytes;
    if (!vgpu_memory_block(address, &start, &bytes)) return vgpu_failed(INVALID_VALUE);
    for (int i = 0; i < 64; i++) ((char *)handle)[i] = i < 8 ? (char)((uintptr_t)start >> (8 * i)) : 0;
    return SUCCESS;
}

struct ipc_handle {
    char bytes[64];
};

API int cudaIpcOpenMemHandle(void **address, struct ipc_handle handle, unsigned flags) {
    (void)address, (void)handle, (void)flags;
    JOURNAL(NOT_MODELLED, "cudaIpcOpenMemHandle");
    return vgpu_failed(NOT_SUPPORTED);
}

/* Pools (cudaMallocAsync): one a device. Assumed: it keeps its highest use in reserve, and
 * each request takes whole blocks of its own, as cudaMalloc's do. */
struct pool {
    uint64_t used, used_high;
};
static struct pool pools[MAX_DEVICES];

static void pool_add(int device, int64_t bytes) {
    vgpu_lock();
    pools[device].used += (uint64_t)bytes;
    if (pools[device].used > pools[device].used_high) pools[device].used_high = pools[device].used;
    vgpu_unlock();
}

API int cudaMallocAsync(void **address, size_t bytes, void *stream) {
    (void)stream;
    int result = cudaMalloc(address, bytes);
    void *start;
    size_t whole;
    if (!result && vgpu_memory_block(*address, &start, &whole)) pool_add(vgpu_current_device(), (int64_t)whole);
    return result;
}

API int cudaMallocFromPoolAsync(void **address, size_t bytes, void *pool, void *stream) {
    (void)pool;
    return cudaMallocAsync(address, bytes, stream);
}

API int cudaFreeAsync(void *address, void *stream) {
    (void)stream;
    void *start;
    size_t whole;
    if (vgpu_memory_block(address, &start, &whole)) pool_add(vgpu_memory_device(address), -(int64_t)whole);
    return cudaFree(address);
}

API int cudaDeviceGetDefaultMemPool(void **pool, int device) {
    if (device < 0 || device >= vgpu_card()->devices) return vgpu_failed(INVALID_DEVICE);
    *pool = &pools[device];
    return SUCCESS;
}

API int cudaDeviceGetMemPool(void **pool, int device) { return cudaDeviceGetDefaultMemPool(pool, device); }

API int cudaMemPoolGetAttribute(void *handle, int attribute, void *value) {
    const struct pool *pool = handle;
    if (attribute <= 3) { /* the three kinds of reuse */
        *(int *)value = 1;
        return SUCCESS;
    }
    JOURNAL(ASSUMED, "a memory pool keeps its highest use in reserve; each request takes whole blocks of 2 MiB");
    *(uint64_t *)value = attribute == 7 ? pool->used : attribute == 4 ? 0 : pool->used_high;
    return SUCCESS;
}

API int cudaMemPoolSetAttribute(void *handle, int attribute, void *value) {
    struct pool *pool = handle;
    if (attribute == 6 || attribute == 8) pool->used_high = pool->used;
    (void)value;
    return SUCCESS;
}

API int cudaMemPoolTrimTo(void *pool, size_t bytes) {
    (void)pool, (void)bytes;
    return SUCCESS;
}

API int cudaMemPoolSetAccess(void *pool, const void *access, size_t count) {
    (void)pool, (void)access, (void)count;
    return SUCCESS;
}
