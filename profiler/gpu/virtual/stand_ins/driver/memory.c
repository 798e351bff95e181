/* CUDA driver: memory, and virtual addresses apart from it (PyTorch's expandable segments). */
#include "common.h"

API int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    void *start;
    int result = vgpu_memory_allocate(&start, bytes, vgpu_current_device());
    *address = (uint64_t)(uintptr_t)start;
    return result;
}

API int cuMemFree_v2(uint64_t address) { return vgpu_memory_free((void *)(uintptr_t)address); }

API int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = vgpu_memory_free_bytes(vgpu_current_device());
    *total_bytes = vgpu_card()->memory_bytes;
    return SUCCESS;
}

API int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    return vgpu_memory_host_allocate(address, bytes);
}

API int cuMemAllocHost_v2(void **address, size_t bytes) { return vgpu_memory_host_allocate(address, bytes); }

API int cuMemFreeHost(void *address) { return vgpu_memory_host_free(address); }

API int cuMemGetAddressRange_v2(uint64_t *start, size_t *bytes, uint64_t address) {
    void *first;
    size_t whole;
    if (!vgpu_memory_block((void *)(uintptr_t)address, &first, &whole)) return NOT_FOUND;
    if (start) *start = (uint64_t)(uintptr_t)first;
    if (bytes) *bytes = whole;
    return SUCCESS;
}

static int copy(uint64_t to, uint64_t from, size_t bytes) {
    vgpu_memory_copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
    return SUCCESS;
}

API int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { return copy((uintptr_t)to, from, bytes); }

API int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { return copy(to, (uintptr_t)from, bytes); }

API int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) { return copy(to, from, bytes); }

API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return waited;
    return copy((uintptr_t)to, from, bytes);
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return waited;
    return copy(to, (uintptr_t)from, bytes);
}

API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return waited;
    return copy(to, from, bytes);
}

API int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return waited;
    return copy(to, from, bytes);
}

API int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) {
    vgpu_memory_fill((void *)(uintptr_t)to, value, bytes);
    return SUCCESS;
}

API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return waited;
    return cuMemsetD8_v2(to, value, bytes);
}

API int cuMemsetD32_v2(uint64_t to, unsigned value, size_t count) {
    if (value) JOURNAL(HARMLESS, "cuMemsetD32 with other than zero reads as zero: reads are named");
    vgpu_memory_fill((void *)(uintptr_t)to, 0, count * 4);
    return SUCCESS;
}

API int cuMemsetD32Async(uint64_t to, unsigned value, size_t count, void *stream) {
    int waited = vgpu_wait_for_data(stream);
    if (waited) return waited;
    return cuMemsetD32_v2(to, value, count);
}

API int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    const void *at = (const void *)(uintptr_t)address;
    void *start;
    size_t bytes;
    bool known = vgpu_memory_block(at, &start, &bytes);
    if (!vgpu_memory_owns(at) && !vgpu_memory_owns_host(at)) return INVALID_VALUE;
    switch (attribute) {
    case 1: { /* context */
        int cuDevicePrimaryCtxRetain(void **, int);
        return cuDevicePrimaryCtxRetain(value, vgpu_memory_owns(at) ? vgpu_memory_device(at) : 0);
    }
    case 2: *(int *)value = vgpu_memory_owns(at) ? 2 : 1; return SUCCESS;            /* kind of memory */
    case 3: case 4: *(uint64_t *)value = address; return SUCCESS;               /* address on the device, the host */
    case 7: *(uint64_t *)value = known ? (uint64_t)(uintptr_t)start : 0; return SUCCESS; /* buffer */
    case 9: *(int *)value = vgpu_memory_owns(at) ? vgpu_memory_device(at) : 0; return SUCCESS;
    case 11: *(uint64_t *)value = (uint64_t)(uintptr_t)(known ? start : at); return SUCCESS;
    case 12: *(size_t *)value = known ? bytes : 0; return SUCCESS;
    default: *(int *)value = 0; return SUCCESS;
    }
}

API int cuMemAddressReserve(uint64_t *address, size_t bytes, size_t alignment, uint64_t hint, uint64_t flags) {
    (void)alignment, (void)hint, (void)flags;
    void *start;
    int result = vgpu_memory_reserve(&start, bytes, vgpu_current_device());
    *address = (uint64_t)(uintptr_t)start;
    return result;
}

API int cuMemAddressFree(uint64_t address, size_t bytes) { return vgpu_memory_unreserve((void *)(uintptr_t)address, bytes); }

/* The first fields of struct CUmemAllocationProp. */
struct allocation_properties {
    int type, handle_types, location_type, location_device;
};

API int cuMemCreate(uint64_t *handle, size_t bytes, const struct allocation_properties *properties, uint64_t flags) {
    (void)flags;
    return vgpu_memory_create(handle, bytes, properties->location_type == 1 ? properties->location_device : vgpu_current_device());
}

API int cuMemRelease(uint64_t handle) { return vgpu_memory_release(handle); }

API int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle, uint64_t flags) {
    (void)offset, (void)flags;
    return vgpu_memory_map((void *)(uintptr_t)address, bytes, handle);
}

API int cuMemUnmap(uint64_t address, size_t bytes) { return vgpu_memory_unmap((void *)(uintptr_t)address, bytes); }

API int cuMemSetAccess(uint64_t address, size_t bytes, const void *access, size_t count) {
    (void)address, (void)bytes, (void)access, (void)count;
    return SUCCESS;
}

API int cuMemGetAllocationGranularity(size_t *bytes, const void *properties, int option) {
    (void)properties, (void)option;
    *bytes = 2 * MIB;
    return SUCCESS;
}

/* Another process cannot map it: its device memory is its own. */
API int cuMemExportToShareableHandle(void *shareable, uint64_t handle, int type, uint64_t flags) {
    (void)shareable, (void)handle, (void)type, (void)flags;
    JOURNAL(NOT_MODELLED, "cuMemExportToShareableHandle");
    return NOT_SUPPORTED;
}

API int cuMulticastGetGranularity(size_t *bytes, const void *properties, int option) {
    (void)properties, (void)option;
    *bytes = 2 * MIB;
    return SUCCESS;
}
