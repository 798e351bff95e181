/* NVML: the card as nvidia-smi sees it. What is not answered here is not supported, as on many cards. */
#include "common.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NOT_SUPPORTED_BY_NVML 3
#define INVALID_ARGUMENT 2
#define INSUFFICIENT_SIZE 7

/* A handle is the device's number plus one. */
static int index_of(const void *handle) { return (int)(uintptr_t)handle - 1; }

API int nvmlInit_v2(void) { return SUCCESS; }
API int nvmlInit(void) { return SUCCESS; }
API int nvmlInitWithFlags(unsigned flags) { return (void)flags, SUCCESS; }
API int nvmlShutdown(void) { return SUCCESS; }
API const char *nvmlErrorString(int error) { return error ? "Not Supported" : "Success"; }

API int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)vgpu_card()->installed;
    return SUCCESS;
}
API int nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if ((int)index >= vgpu_card()->installed) return INVALID_ARGUMENT;
    *handle = (void *)(uintptr_t)(index + 1);
    return SUCCESS;
}
API int nvmlDeviceGetHandleByIndex(unsigned index, void **handle) { return nvmlDeviceGetHandleByIndex_v2(index, handle); }

API int nvmlDeviceGetHandleByPciBusId_v2(const char *text, void **handle) {
    unsigned bus = 0;
    if (sscanf(text, "%*x:%x", &bus) != 1 || bus < 1) return INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2(bus - 1, handle);
}
API int nvmlDeviceGetHandleByPciBusId(const char *text, void **handle) { return nvmlDeviceGetHandleByPciBusId_v2(text, handle); }

API int nvmlDeviceGetIndex(void *handle, unsigned *index) {
    *index = (unsigned)index_of(handle);
    return SUCCESS;
}

API int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    (void)handle;
    snprintf(name, length, "%s", vgpu_card()->name);
    return SUCCESS;
}

/* The same that cudaDeviceProp says: its first byte is the device's number plus one. */
API int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%02x000000-0000-0000-0000-000000000000", index_of(handle) + 1);
    return SUCCESS;
}

API int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    (void)handle;
    *major = vgpu_card()->major;
    *minor = vgpu_card()->minor;
    return SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};

/* By this process; nothing of a GPU that it does not see. */
static unsigned long long used(void *handle) {
    for (int device = 0; device < vgpu_card()->devices; device++) {
        if (vgpu_card()->physical[device] == index_of(handle)) {
            return vgpu_card()->context_bytes + vgpu_memory_used(device);
        }
    }
    return 0;
}

API int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    memory->total = vgpu_card()->nvml_total_bytes;
    memory->used = memory->total - vgpu_card()->memory_bytes + used(handle); /* what the driver keeps, too */
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

API int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory) {
    memory->total = vgpu_card()->nvml_total_bytes;
    memory->reserved = memory->total - vgpu_card()->memory_bytes;
    memory->used = used(handle);
    memory->free = vgpu_card()->memory_bytes - memory->used;
    return SUCCESS;
}

/* This process alone runs on the card. */
struct process_v1 {
    unsigned pid;
    unsigned long long used_bytes;
};
struct process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

API int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, struct process_v1 *processes) {
    unsigned room = *count;
    *count = 1;
    if (room < 1) return INSUFFICIENT_SIZE;
    processes[0] = (struct process_v1){(unsigned)getpid(), used(handle)};
    return SUCCESS;
}

API int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *processes) {
    unsigned room = *count;
    *count = 1;
    if (room < 1) return INSUFFICIENT_SIZE;
    processes[0] = (struct process){(unsigned)getpid(), used(handle), 0xFFFFFFFFu, 0xFFFFFFFFu};
    return SUCCESS;
}

API int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, struct process *processes) {
    return nvmlDeviceGetComputeRunningProcesses_v3(handle, count, processes);
}

API int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = CUDA_MAJOR * 1000 + (CUDA_MAJOR == 12 ? 90 : 0);
    return SUCCESS;
}
API int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

API int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    snprintf(text, length, "%s", CUDA_MAJOR == 12 ? "575.57.08" : "580.82.07");
    return SUCCESS;
}
