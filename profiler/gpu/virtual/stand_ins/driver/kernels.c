/* CUDA driver: modules and kernels (Triton, NVRTC), streams and events. Kernels do not run. */
#include "common.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int handle(void **to) {
    *to = vgpu_new_handle();
    return SUCCESS;
}

static int load(void **module, const void *image) { return vgpu_module_load(module, image) ? SUCCESS : OUT_OF_MEMORY; }
static int kernel_of(void **kernel, void *module, const char *name) {
    return vgpu_module_kernel(kernel, module, name) ? SUCCESS : OUT_OF_MEMORY;
}

#define FILE_NOT_FOUND 301
#define MOST_BYTES ((off_t)512 << 20)

API int cuModuleLoad(void **module, const char *path) {
    struct stat of;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    void *image = MAP_FAILED;
    if (file >= 0 && !fstat(file, &of) && of.st_size >= 64 && of.st_size <= MOST_BYTES) {
        image = mmap(NULL, (size_t)of.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    if (file >= 0) close(file);
    if (image == MAP_FAILED) return FILE_NOT_FOUND;
    int result = load(module, image);
    munmap(image, (size_t)of.st_size);
    return result;
}

API int cuLibraryLoadFromFile(void **library, const char *path) { return cuModuleLoad(library, path); }
API int cuModuleLoadData(void **module, const void *image) { return load(module, image); }
API int cuModuleLoadDataEx(void **module, const void *image) { return load(module, image); }
API int cuModuleLoadFatBinary(void **module, const void *image) { return load(module, image); }
API int cuModuleUnload(void *module) { return module ? SUCCESS : INVALID_VALUE; }
API int cuModuleGetFunction(void **function, void *module, const char *name) { return kernel_of(function, module, name); }
API int cuLibraryLoadData(void **library, const void *image) { return load(library, image); }
API int cuLibraryGetKernel(void **kernel, void *library, const char *name) { return kernel_of(kernel, library, name); }
API int cuLibraryGetModule(void **module, void *library) {
    *module = library;
    return SUCCESS;
}

API int cuLibraryUnload(void *library) { return library ? SUCCESS : INVALID_VALUE; }

API int cuKernelGetFunction(void **function, void *kernel) {
    *function = kernel;
    return SUCCESS;
}

API int cuModuleGetGlobal_v2(uint64_t *address, size_t *bytes, void *module, const char *name) {
    (void)module, (void)name;
    JOURNAL(HARMLESS, "a variable of a module has 64 KiB: it lies in the context's memory");
    void *start = NULL;
    int result = vgpu_memory_host_allocate(&start, 64 << 10);
    if (address) *address = (uint64_t)(uintptr_t)start;
    if (bytes) *bytes = 64 << 10;
    return result;
}

API int cuLinkCreate_v2(unsigned count, void *options, void **values, void **state) {
    (void)count, (void)options, (void)values;
    return handle(state);
}

API int cuLinkComplete(void *state, void **image, size_t *bytes) {
    static char nothing[64];
    (void)state;
    *image = nothing;
    if (bytes) *bytes = sizeof nothing;
    return SUCCESS;
}

API int cuFuncGetAttribute(int *value, int attribute, void *function) {
    struct kernel_attributes kernel;
    vgpu_kernel_attributes(function, &kernel);
    switch (attribute) { /* enum CUfunction_attribute */
    case 0: *value = kernel.max_threads_per_block; break;
    case 1: *value = (int)kernel.shared_bytes; break;
    case 4: *value = kernel.registers; break;
    case 5: case 6: *value = kernel.binary_version; break;
    case 8: *value = 48 << 10; break;
    default: *value = 0; break;
    }
    return SUCCESS;
}

API int cuFuncSetAttribute(void *function, int attribute, int value) {
    (void)function, (void)attribute, (void)value;
    return SUCCESS;
}

API int cuFuncSetCacheConfig(void *function, int configuration) {
    (void)function, (void)configuration;
    return SUCCESS;
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared_bytes) {
    *blocks = vgpu_kernel_blocks_per_multiprocessor(function, threads, shared_bytes);
    return SUCCESS;
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, void *function, int threads,
                                                             size_t shared_bytes, unsigned flags) {
    (void)flags;
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

API int cuOccupancyMaxActiveClusters(int *clusters) {
    JOURNAL(ASSUMED, "clusters on the card: one a multiprocessor");
    *clusters = vgpu_card()->multiprocessors;
    return SUCCESS;
}

API int cuLaunchKernel(void) { return SUCCESS; }
API int cuLaunchKernelEx(void) { return SUCCESS; }
API int cuLaunchCooperativeKernel(void) { return SUCCESS; }
API int cuTensorMapEncodeTiled(void) { return SUCCESS; }
API int cuTensorMapEncodeIm2col(void) { return SUCCESS; }

API int cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    *stream = vgpu_stream_create(0);
    return *stream ? SUCCESS : OUT_OF_MEMORY;
}

API int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    (void)flags;
    *stream = vgpu_stream_create(priority);
    return *stream ? SUCCESS : OUT_OF_MEMORY;
}

API int cuStreamDestroy_v2(void *stream) { return vgpu_stream_destroy(stream); }
API int cuStreamSynchronize(void *stream) { return vgpu_settle(stream); }
API int cuStreamQuery(void *stream) { return vgpu_stream_waits(stream) ? NOT_READY : SUCCESS; }

API int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)flags;
    vgpu_stream_wait_event(stream, event);
    return SUCCESS;
}

API int cuStreamGetCtx(void *stream, void **context) {
    int cuDevicePrimaryCtxRetain(void **, int);
    return cuDevicePrimaryCtxRetain(context, vgpu_stream_device(stream));
}

API int cuStreamIsCapturing(void *stream, int *status) {
    *status = vgpu_stream_capture(stream, NULL) ? 1 : 0;
    return SUCCESS;
}

API int cuStreamGetCaptureInfo_v2(void *stream, int *status, uint64_t *id, void **graph, void ***dependencies, size_t *count) {
    void *of = NULL;
    uint64_t capture = vgpu_stream_capture(stream, &of);
    *status = capture ? 1 : 0;
    if (id) *id = capture;
    if (graph) *graph = of;
    if (dependencies) *dependencies = NULL;
    if (count) *count = 0;
    return SUCCESS;
}

API int cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = vgpu_event_create();
    return *event ? SUCCESS : OUT_OF_MEMORY;
}

API int cuEventDestroy_v2(void *event) { return vgpu_event_destroy(event); }

API int cuEventRecord(void *event, void *stream) {
    vgpu_event_record(event, stream);
    return SUCCESS;
}

API int cuEventQuery(void *event) { return vgpu_event_waits(event) ? NOT_READY : SUCCESS; }
API int cuEventSynchronize(void *event) { return vgpu_event_settle(event); }

API int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    *milliseconds = vgpu_event_elapsed_ms(start, end);
    return SUCCESS;
}
