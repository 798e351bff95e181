/* CUDA runtime: devices, their properties, errors. */
#include "common.h"

#include <stdio.h>
#include <string.h>

API int cudaGetDeviceCount(int *count) {
    *count = vgpu_card()->devices;
    return vgpu_failed(*count ? SUCCESS : NO_DEVICE);
}

API int cudaGetDevice(int *device) {
    *device = vgpu_current_device();
    return SUCCESS;
}

API int cudaSetDevice(int device) { return vgpu_failed(vgpu_set_current_device(device)); }

API int cudaInitDevice(int device, unsigned device_flags, unsigned flags) {
    (void)device_flags, (void)flags;
    return vgpu_failed(device < vgpu_card()->devices ? SUCCESS : INVALID_DEVICE);
}

API int cudaDriverGetVersion(int *version) {
    *version = CUDA_MAJOR * 1000 + (CUDA_MAJOR == 12 ? 90 : 0);
    return SUCCESS;
}

API int cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

API int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    return vgpu_failed(vgpu_card_attribute(attribute, device, value));
}

API int cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = device != peer;
    return SUCCESS;
}

API int cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    (void)peer, (void)flags;
    return SUCCESS;
}

API int cudaDeviceGetPCIBusId(char *text, int length, int device) {
    if (device < 0 || device >= vgpu_card()->devices) return vgpu_failed(INVALID_DEVICE);
    snprintf(text, (size_t)length, "0000:%02X:00.0", vgpu_card()->physical[device] + 1);
    return SUCCESS;
}

API int cudaDeviceGetByPCIBusId(int *device, const char *text) {
    unsigned bus = 0;
    if (sscanf(text, "%*x:%x", &bus) != 1) return vgpu_failed(INVALID_VALUE);
    for (*device = 0; *device < vgpu_card()->devices; ++*device) {
        if (vgpu_card()->physical[*device] + 1 == (int)bus) return SUCCESS;
    }
    return vgpu_failed(INVALID_DEVICE);
}

API int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return SUCCESS;
}

API int cudaDeviceSynchronize(void) { return vgpu_failed(vgpu_settle_all()); }

API int cudaDeviceGetLimit(size_t *value, int limit) {
    static const size_t VALUES[] = {1024, 1 << 20, 8 << 20, 2, 2048}; /* stack, printf, heap, depth, launches */
    *value = limit >= 0 && limit < 5 ? VALUES[limit] : 0;
    return SUCCESS;
}

API int cudaDeviceGetGraphMemAttribute(int device, int attribute, void *value) {
    (void)device, (void)attribute;
    *(uint64_t *)value = 0;
    return SUCCESS;
}

/* struct cudaDeviceProp by field: where it is in CUDA 12 and 13 (-1: not there), its bytes, its attribute. */
struct field {
    short cuda12, cuda13, bytes, attribute;
};
static const struct field FIELDS[] = {
    {296, 296, 8, 8},   /* sharedMemPerBlock */
    {304, 304, 4, 12},  /* regsPerBlock */
    {308, 308, 4, 10},  /* warpSize */
    {312, 312, 8, 11},  /* memPitch */
    {320, 320, 4, 1},   /* maxThreadsPerBlock */
    {324, 324, 4, 2},   /* maxThreadsDim[0] */
    {328, 328, 4, 3},   /* maxThreadsDim[1] */
    {332, 332, 4, 4},   /* maxThreadsDim[2] */
    {336, 336, 4, 5},   /* maxGridSize[0] */
    {340, 340, 4, 6},   /* maxGridSize[1] */
    {344, 344, 4, 7},   /* maxGridSize[2] */
    {348, -1, 4, 13},   /* clockRate */
    {352, 352, 8, 9},   /* totalConstMem */
    {360, 360, 4, 75},  /* major */
    {364, 364, 4, 76},  /* minor */
    {368, 368, 8, 14},  /* textureAlignment */
    {376, 376, 8, 51},  /* texturePitchAlignment */
    {384, -1, 4, 15},   /* deviceOverlap */
    {388, 384, 4, 16},  /* multiProcessorCount */
    {400, 392, 4, 19},  /* canMapHostMemory */
    {576, 560, 4, 31},  /* concurrentKernels */
    {580, 564, 4, 32},  /* ECCEnabled */
    {584, 568, 4, 33},  /* pciBusID */
    {600, 584, 4, 40},  /* asyncEngineCount */
    {604, 588, 4, 41},  /* unifiedAddressing */
    {608, -1, 4, 36},   /* memoryClockRate */
    {612, 592, 4, 37},  /* memoryBusWidth */
    {616, 596, 4, 38},  /* l2CacheSize */
    {624, 604, 4, 39},  /* maxThreadsPerMultiProcessor */
    {628, 608, 4, 78},  /* streamPrioritiesSupported */
    {632, 612, 4, 79},  /* globalL1CacheSupported */
    {636, 616, 4, 80},  /* localL1CacheSupported */
    {640, 624, 8, 81},  /* sharedMemPerMultiprocessor */
    {648, 632, 4, 82},  /* regsPerMultiprocessor */
    {652, 636, 4, 83},  /* managedMemory */
    {676, 656, 4, 89},  /* concurrentManagedAccess */
    {680, 660, 4, 90},  /* computePreemptionSupported */
    {684, 664, 4, 91},  /* canUseHostPointerForRegisteredMem */
    {688, 668, 4, 95},  /* cooperativeLaunch */
    {696, 672, 8, 97},  /* sharedMemPerBlockOptin */
    {712, 688, 4, 106}, /* maxBlocksPerMultiProcessor */
    {720, 696, 8, 111}, /* reservedSharedMemPerBlock */
    {728, 704, 4, 99},  /* hostRegisterSupported */
    {744, 720, 4, 115}, /* memoryPoolsSupported */
    {760, 736, 4, 119}, /* memoryPoolSupportedHandleTypes */
    {768, 744, 4, 125}, /* ipcEventSupported */
    {772, 748, 4, 120}, /* clusterLaunch */
    {776, 752, 4, 129}, /* unifiedFunctionPointers */
};
enum { UUID = 256, TOTAL_MEMORY = 288, BYTES = CUDA_MAJOR == 12 ? 1032 : 1008 };

static int properties(char *to, int device, int bytes) {
    const struct card *card = vgpu_card();
    if (device < 0 || device >= card->devices) return vgpu_failed(INVALID_DEVICE);
    memset(to, 0, (size_t)bytes);
    snprintf(to, 256, "%s", card->name);
    to[UUID] = (char)(card->physical[device] + 1);
    memcpy(to + TOTAL_MEMORY, &card->memory_bytes, 8);
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) {
        int at = CUDA_MAJOR == 12 ? FIELDS[i].cuda12 : FIELDS[i].cuda13;
        int value = 0;
        vgpu_card_attribute(FIELDS[i].attribute, device, &value);
        int64_t wide = value;
        if (at >= 0 && at + FIELDS[i].bytes <= bytes) memcpy(to + at, &wide, (size_t)FIELDS[i].bytes);
    }
    return SUCCESS;
}

#if CUDA_MAJOR == 12
API int cudaGetDeviceProperties_v2(char *to, int device) { return properties(to, device, BYTES); }

/* The structure of CUDA 11 ends here; what comes before is the same. */
API int cudaGetDeviceProperties(char *to, int device) { return properties(to, device, 728); }
#else
API int cudaGetDeviceProperties(char *to, int device) { return properties(to, device, BYTES); }
#endif

API int cudaGetLastError(void) { return vgpu_last_error(true); }

API int cudaPeekAtLastError(void) { return vgpu_last_error(false); }

API const char *cudaGetErrorString(int error) {
    switch (error) {
    case SUCCESS: return "no error";
    case INVALID_VALUE: return "invalid argument";
    case OUT_OF_MEMORY: return "out of memory";
    case NO_DEVICE: return "no CUDA-capable device is detected";
    case INVALID_DEVICE: return "invalid device ordinal";
    case NOT_FOUND: return "named symbol not found";
    case NOT_SUPPORTED: return "operation not supported";
    default: return "unrecognized error code";
    }
}

API const char *cudaGetErrorName(int error) {
    switch (error) {
    case SUCCESS: return "cudaSuccess";
    case INVALID_VALUE: return "cudaErrorInvalidValue";
    case OUT_OF_MEMORY: return "cudaErrorMemoryAllocation";
    case NO_DEVICE: return "cudaErrorNoDevice";
    case INVALID_DEVICE: return "cudaErrorInvalidDevice";
    case NOT_FOUND: return "cudaErrorSymbolNotFound";
    case NOT_SUPPORTED: return "cudaErrorNotSupported";
    default: return "unrecognized error code";
    }
}
