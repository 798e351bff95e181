/* The card in cuDNN's words.
 *
 * The keys are those that cuDNN writes itself (a CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR made on a GPU, read back);
 * cuDNN refuses a text in which one is missing. Its heuristic reads the compute capability and little else.
 */
#include "cudnn.h"

#include <stdio.h>

enum { FULL_DEVICE = 0, REGISTERS = 65536, WARP = 32, SHARED_MEMORY_OF_A_BLOCK = 48 << 10 };

size_t cudnn_device_text(char *text, size_t bytes) {
    const struct card *card = vgpu_card();
    int length = snprintf(
        text, bytes,
        "{\"cudaDeviceId\":0,\"totalGlobalMem\":%zu,\"deviceVer\":%d,\"driverVer\":%d,"
        "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":%d,"
        "\"multiProcessorCount\":%d,\"smCountOrigin\":%d,\"warpSize\":%d,\"maxSharedMemoryPerBlock\":%d,"
        "\"maxSharedMemoryPerBlockOptin\":%zu,\"reservedSharedMemoryPerBlock\":%d,\"maxRegistersPerSM\":%d,"
        "\"maxCtasPerSM\":%d,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,"
        "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"smClockRateKHz\":%d,\"memClockRateKHz\":%d,"
        "\"l2CacheSize\":%zu,\"deviceName\":\"%s\"}",
        card->memory_bytes, 100 * card->major + 10 * card->minor, CUDA_MAJOR * 1000, REGISTERS,
        card->multiprocessors, FULL_DEVICE, WARP, SHARED_MEMORY_OF_A_BLOCK,
        card->shared_memory_per_block_optin_bytes, card->major >= 8 ? 1024 : 0, REGISTERS,
        card->blocks_per_multiprocessor, card->threads_per_multiprocessor, card->clock_khz,
        card->memory_clock_khz, card->l2_cache_bytes, card->name);
    return length > 0 && (size_t)length < bytes ? (size_t)length : 0;
}
