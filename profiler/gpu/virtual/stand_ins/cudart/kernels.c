/* CUDA runtime: the registration of kernels, their launch (they do not run), what they need. */
#include "common.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct dim3 {
    unsigned x, y, z;
};

/* The handle is the binary itself, in which the kernels' metadata is found. */
API void **__cudaRegisterFatBinary(void *binary) { return binary; }

API void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }

API void __cudaUnregisterFatBinary(void **handle) { (void)handle; }

API char __cudaInitModule(void **handle) {
    (void)handle;
    return 1;
}

API void __cudaRegisterFunction(void **binary, const char *host_function, char *device_function, const char *name) {
    (void)device_function;
    vgpu_kernel_register(host_function, name, binary);
}

/* Variables of the device live in device memory: made when their address is asked for. */
struct variable {
    const void *host;
    size_t bytes;
    void *address[MAX_DEVICES];
};
static struct variable *variables; /* torch registers some ten thousand */
static size_t variable_count, variable_capacity;

API void __cudaRegisterVar(void **binary, char *host, char *address, const char *name, int external, size_t bytes) {
    (void)binary, (void)address, (void)name, (void)external;
    vgpu_lock();
    if (variable_count == variable_capacity) {
        variable_capacity = variable_capacity ? 2 * variable_capacity : 1 << 10;
        variables = realloc(variables, variable_capacity * sizeof *variables);
        if (!variables) abort();
    }
    variables[variable_count++] = (struct variable){.host = host, .bytes = bytes};
    vgpu_unlock();
}

/* Few are ever asked for. */
static struct variable *find_variable(const void *host) {
    for (size_t i = 0; i < variable_count; i++) {
        if (variables[i].host == host) return &variables[i];
    }
    return NULL;
}

API int cudaGetSymbolAddress(void **address, const void *symbol) {
    vgpu_lock();
    struct variable *variable = find_variable(symbol);
    int result = variable ? SUCCESS : NOT_FOUND;
    if (variable) { /* in the context's memory, which the card charges already */
        void **at = &variable->address[vgpu_current_device()];
        if (!*at) result = vgpu_memory_host_allocate(at, variable->bytes);
        *address = *at;
    }
    vgpu_unlock();
    return vgpu_failed(result);
}

API int cudaGetSymbolSize(size_t *bytes, const void *symbol) {
    vgpu_lock();
    struct variable *variable = find_variable(symbol);
    if (variable) *bytes = variable->bytes;
    vgpu_unlock();
    return vgpu_failed(variable ? SUCCESS : NOT_FOUND);
}

API int cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset, int kind) {
    (void)kind;
    void *address;
    int result = cudaGetSymbolAddress(&address, symbol);
    if (!result) vgpu_memory_copy((char *)address + offset, from, bytes);
    return result;
}

struct call {
    struct dim3 grid, block;
    size_t shared_bytes;
    void *stream;
};
static __thread struct call calls[64];
static __thread unsigned depth;

API unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared_bytes, void *stream) {
    if (depth == sizeof calls / sizeof *calls) return INVALID_VALUE;
    calls[depth++] = (struct call){grid, block, shared_bytes, stream};
    return SUCCESS;
}

API int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared_bytes, void **stream) {
    if (!depth) return INVALID_VALUE;
    depth--;
    *grid = calls[depth].grid;
    *block = calls[depth].block;
    *shared_bytes = calls[depth].shared_bytes;
    *stream = calls[depth].stream;
    return SUCCESS;
}

API int cudaLaunchKernel(const void *function, struct dim3 grid, struct dim3 block, void **arguments,
                         size_t shared_bytes, void *stream) {
    (void)function, (void)arguments, (void)shared_bytes, (void)stream;
    bool fits = (size_t)block.x * block.y * block.z <= 1024 && grid.x && grid.y && grid.z && block.x;
    return vgpu_failed(fits ? SUCCESS : 9); /* cudaErrorInvalidConfiguration */
}

API int cudaLaunchCooperativeKernel(const void *function, struct dim3 grid, struct dim3 block, void **arguments,
                                    size_t shared_bytes, void *stream) {
    return cudaLaunchKernel(function, grid, block, arguments, shared_bytes, stream);
}

API int __cudaLaunchKernel(void *kernel, struct dim3 grid, struct dim3 block, void **arguments, size_t shared_bytes,
                           void *stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}

API int cudaLaunchKernelExC(const void *configuration, const void *function, void **arguments) {
    (void)configuration, (void)function, (void)arguments;
    return SUCCESS;
}

API int __cudaGetKernel(void **kernel, const void *function) {
    *kernel = (void *)(uintptr_t)function;
    return SUCCESS;
}

API int cudaGetFuncBySymbol(void **function, const void *symbol) { return __cudaGetKernel(function, symbol); }

API int cudaGetKernel(void **kernel, const void *function) { return __cudaGetKernel(kernel, function); }

API int cudaLibraryLoadData(void **library, const void *image) {
    return vgpu_failed(vgpu_module_load(library, image) ? SUCCESS : OUT_OF_MEMORY);
}

API int cudaLibraryUnload(void *library) {
    (void)library;
    return SUCCESS;
}

API int cudaLibraryGetKernel(void **kernel, void *library, const char *name) {
    return vgpu_failed(vgpu_module_kernel(kernel, library, name) ? SUCCESS : OUT_OF_MEMORY);
}

API int cudaFuncSetAttribute(const void *function, int attribute, int value) {
    (void)function, (void)attribute, (void)value;
    return SUCCESS;
}

API int cudaFuncSetCacheConfig(const void *function, int configuration) {
    (void)function, (void)configuration;
    return SUCCESS;
}

/* struct cudaFuncAttributes: 144 bytes in CUDA 12 and 13. */
struct function_attributes {
    size_t shared_bytes, constant_bytes, local_bytes;
    int max_threads_per_block, registers, ptx_version, binary_version, cache_mode;
    int max_dynamic_shared_bytes, preferred_carveout;
    int cluster[6], reserved[16];
};
_Static_assert(sizeof(struct function_attributes) == 144, "struct cudaFuncAttributes");
_Static_assert(offsetof(struct function_attributes, max_dynamic_shared_bytes) == 44, "struct cudaFuncAttributes");

API int cudaFuncGetAttributes(struct function_attributes *attributes, const void *function) {
    struct kernel_attributes kernel;
    vgpu_kernel_attributes(function, &kernel);
    memset(attributes, 0, sizeof *attributes);
    attributes->shared_bytes = kernel.shared_bytes;
    attributes->registers = kernel.registers;
    attributes->max_threads_per_block = kernel.max_threads_per_block;
    attributes->ptx_version = attributes->binary_version = kernel.binary_version;
    attributes->max_dynamic_shared_bytes = 48 << 10;
    attributes->preferred_carveout = -1;
    return SUCCESS;
}

API int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads, size_t shared_bytes) {
    *blocks = vgpu_kernel_blocks_per_multiprocessor(function, threads, shared_bytes);
    return SUCCESS;
}

API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                               size_t shared_bytes, unsigned flags) {
    (void)flags;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

API int cudaOccupancyMaxActiveClusters(int *clusters, const void *function, const void *configuration) {
    (void)function, (void)configuration;
    JOURNAL(ASSUMED, "clusters on the card: one a multiprocessor");
    *clusters = vgpu_card()->multiprocessors;
    return SUCCESS;
}

/* The driver's functions by name, of the stand-in for libcuda. */
API int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                         int *status) {
    (void)version, (void)flags;
    char newer[128];
    *function = NULL;
    if (strlen(name) < sizeof newer - 4) {
        strcpy(newer, name);
        strcat(newer, "_v2"); /* what the plain name means since CUDA 3.2 */
        *function = dlsym(RTLD_DEFAULT, newer);
    }
    if (!*function) *function = dlsym(RTLD_DEFAULT, name);
    if (status) *status = *function ? 0 : 1;
    return SUCCESS;
}

API int cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags, int *status) {
    return cudaGetDriverEntryPointByVersion(name, function, 0, flags, status);
}
