/* CUDA driver: devices, contexts, entry points, errors. */
#include "common.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static char contexts[MAX_DEVICES]; /* a context is the address of its device's entry */

API int cuInit(unsigned flags) {
    (void)flags;
    return vgpu_card()->devices ? SUCCESS : NO_DEVICE;
}

API int cuDriverGetVersion(int *version) {
    *version = CUDA_MAJOR * 1000 + (CUDA_MAJOR == 12 ? 90 : 0);
    return SUCCESS;
}

API int cuDeviceGetCount(int *count) {
    *count = vgpu_card()->devices;
    return SUCCESS;
}

API int cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= vgpu_card()->devices) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    snprintf(name, (size_t)length, "%s", vgpu_card()->name);
    return SUCCESS;
}

API int cuDeviceGetAttribute(int *value, int attribute, int device) { return vgpu_card_attribute(attribute, device, value); }

API int cuDeviceComputeCapability(int *major, int *minor, int device) {
    (void)device;
    *major = vgpu_card()->major;
    *minor = vgpu_card()->minor;
    return SUCCESS;
}

API int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = vgpu_card()->memory_bytes;
    return SUCCESS;
}

API int cuDeviceGetUuid_v2(char *uuid, int device) {
    if (device < 0 || device >= vgpu_card()->devices) return INVALID_DEVICE;
    memset(uuid, 0, 16);
    uuid[0] = (char)(vgpu_card()->physical[device] + 1);
    return SUCCESS;
}

API int cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

API int cuDeviceGetPCIBusId(char *text, int length, int device) {
    if (device < 0 || device >= vgpu_card()->devices) return INVALID_DEVICE;
    snprintf(text, (size_t)length, "0000:%02X:00.0", vgpu_card()->physical[device] + 1);
    return SUCCESS;
}

API int cuDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = device != peer;
    return SUCCESS;
}

API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    (void)device;
    if (flags) *flags = 0;
    *active = 1;
    return SUCCESS;
}

API int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device < 0 || device >= vgpu_card()->devices) return INVALID_DEVICE;
    *context = &contexts[device];
    return SUCCESS;
}

API int cuCtxGetCurrent(void **context) {
    *context = vgpu_card()->devices ? &contexts[vgpu_current_device()] : NULL;
    return SUCCESS;
}

API int cuCtxSetCurrent(void *context) {
    ptrdiff_t device = (char *)context - contexts;
    return context && device >= 0 && device < MAX_DEVICES ? vgpu_set_current_device((int)device) : SUCCESS;
}

API int cuCtxPushCurrent_v2(void *context) { return cuCtxSetCurrent(context); }

API int cuCtxPopCurrent_v2(void **context) { return context ? cuCtxGetCurrent(context) : SUCCESS; }

API int cuCtxGetDevice(int *device) {
    *device = vgpu_current_device();
    return SUCCESS;
}

API int cuCtxSynchronize(void) { return vgpu_settle_all(); }

API int cuCtxGetApiVersion(void *context, unsigned *version) {
    (void)context;
    *version = 3020;
    return SUCCESS;
}

API int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return SUCCESS;
}

API int cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == SUCCESS ? "no error" : "operation failed";
    return SUCCESS;
}

API int cuGetErrorName(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == SUCCESS ? "CUDA_SUCCESS" : "CUDA_ERROR_UNKNOWN";
    return SUCCESS;
}

/* Private tables, which only a CUDA runtime asks for: one that a library has linked into itself. */
#define MOST_RUNTIMES 64
static struct runtime {
    const void *library;
    struct journal_entry entry;
    char text[116];
} runtimes[MOST_RUNTIMES];

/* Its kernels cannot run. cuDNN asks the runtime for nothing but kernels: its plans do without. */
static void note_runtime_of(const void *caller) {
    Dl_info of;
    if (!dladdr(caller, &of) || !of.dli_fname) return;
    const char *name = strrchr(of.dli_fname, '/');
    name = name ? name + 1 : of.dli_fname;
    bool plans = !strncmp(name, "libcudnn", 8);
    struct runtime *runtime = runtimes;
    vgpu_lock();
    while (runtime < runtimes + MOST_RUNTIMES - 1 && runtime->library && runtime->library != of.dli_fbase) runtime++;
    if (!runtime->library) {
        runtime->library = of.dli_fbase;
        snprintf(runtime->text, sizeof runtime->text, "%.36s has a CUDA runtime of its own, which finds no GPU%s", name,
                 plans ? ": its plans need none" : "");
        runtime->entry = (struct journal_entry){runtime->text, plans ? HARMLESS : NOT_MODELLED, 0};
    }
    vgpu_unlock();
    vgpu_journal_count(&runtime->entry);
}

API int cuGetExportTable(const void **table, const void *id) {
    (void)id;
    note_runtime_of(__builtin_return_address(0));
    *table = NULL;
    return NOT_SUPPORTED;
}

/* What a plain name means since CUDA 3.2: its second version, where there is one. */
API int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    char newer[128];
    *function = NULL;
    if (strlen(name) < sizeof newer - 4) {
        strcpy(newer, name);
        strcat(newer, "_v2");
        *function = dlsym(RTLD_DEFAULT, newer);
    }
    if (!*function) *function = dlsym(RTLD_DEFAULT, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

API int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
