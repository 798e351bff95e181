/* NCCL of one process: communicators, and collectives in which every rank sends what this one sends. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

struct communicator {
    int ranks, rank;
};
struct unique_id {
    char bytes[128];
};

static int create(struct communicator **to, int ranks, int rank) {
    *to = malloc(sizeof **to);
    if (!*to) return 2; /* ncclSystemError */
    **to = (struct communicator){ranks, rank};
    JOURNAL(ASSUMED, "NCCL takes no device memory of its own");
    return SUCCESS;
}

API int ncclGetVersion(int *version) {
    *version = CUDA_MAJOR == 12 ? 22105 : 22809;
    return SUCCESS;
}

API int ncclGetUniqueId(struct unique_id *id) {
    memset(id, 7, sizeof *id);
    return SUCCESS;
}

API int ncclCommGetUniqueId(void *communicator, struct unique_id *id) {
    (void)communicator;
    return ncclGetUniqueId(id);
}

API int ncclCommInitRank(struct communicator **to, int ranks, struct unique_id id, int rank) {
    (void)id;
    return create(to, ranks, rank);
}

API int ncclCommInitRankConfig(struct communicator **to, int ranks, struct unique_id id, int rank, void *config) {
    (void)config;
    return ncclCommInitRank(to, ranks, id, rank);
}

API int ncclCommInitRankScalable(struct communicator **to, int ranks, int rank, int ids, void *id, void *config) {
    (void)ids, (void)id, (void)config;
    return create(to, ranks, rank);
}

API int ncclCommInitAll(struct communicator **to, int ranks, const int *devices) {
    (void)devices;
    for (int rank = 0; rank < ranks; rank++) {
        int result = create(&to[rank], ranks, rank);
        if (result) return result;
    }
    return SUCCESS;
}

/* Ranks of one color; how many there are only the others know: assumed as many as divide evenly by color 0 and 1. */
API int ncclCommSplit(struct communicator *of, int color, int key, struct communicator **to, void *config) {
    (void)key, (void)config;
    *to = NULL;
    if (color < 0) return SUCCESS; /* NCCL_SPLIT_NOCOLOR */
    JOURNAL(ASSUMED, "ncclCommSplit: all ranks have one color");
    return create(to, of->ranks, of->rank);
}

static int destroy(struct communicator *communicator) {
    free(communicator);
    return SUCCESS;
}
API int ncclCommDestroy(struct communicator *communicator) { return destroy(communicator); }
API int ncclCommAbort(struct communicator *communicator) { return destroy(communicator); }

API int ncclCommGetAsyncError(void *communicator, int *error) {
    (void)communicator;
    *error = SUCCESS;
    return SUCCESS;
}

API int ncclCommCount(const struct communicator *communicator, int *ranks) {
    *ranks = communicator->ranks;
    return SUCCESS;
}

API int ncclCommUserRank(const struct communicator *communicator, int *rank) {
    *rank = communicator->rank;
    return SUCCESS;
}

API int ncclCommCuDevice(const struct communicator *communicator, int *device) {
    (void)communicator;
    *device = vgpu_current_device();
    return SUCCESS;
}

API int ncclRedOpCreatePreMulSum(int *operation) {
    *operation = 10;
    return SUCCESS;
}

API int ncclMemAlloc(void **address, size_t bytes) {
    return vgpu_memory_allocate(address, bytes, vgpu_current_device()) ? 1 : SUCCESS; /* ncclUnhandledCudaError */
}

API int ncclMemFree(void *address) { return vgpu_memory_free(address) ? 4 : SUCCESS; }

API int ncclCommRegister(void *communicator, void *buffer, size_t bytes, void **handle) {
    (void)communicator, (void)buffer, (void)bytes;
    *handle = vgpu_new_handle();
    return SUCCESS;
}

API int ncclCommWindowRegister(void *communicator, void *buffer, size_t bytes, void **window, int flags) {
    (void)flags;
    return ncclCommRegister(communicator, buffer, bytes, window);
}

static size_t element_bytes(int type) {
    static const unsigned char BYTES[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* ncclDataType_t */
    return type >= 0 && type < (int)sizeof BYTES ? BYTES[type] : 1;
}

/* A sum over the ranks reads as this rank's own part. */
API int ncclAllReduce(const void *from, void *to, size_t count, int type) {
    vgpu_memory_copy(to, from, count * element_bytes(type));
    return SUCCESS;
}

API int ncclReduce(const void *from, void *to, size_t count, int type, int operation, int root,
                   const struct communicator *communicator) {
    (void)operation;
    return root == communicator->rank ? ncclAllReduce(from, to, count, type) : SUCCESS;
}

API int ncclBroadcast(const void *from, void *to, size_t count, int type, int root,
                      const struct communicator *communicator) {
    return root == communicator->rank ? ncclAllReduce(from, to, count, type) : SUCCESS;
}

API int ncclBcast(void *buffer, size_t count, int type) {
    (void)buffer, (void)count, (void)type;
    return SUCCESS;
}

API int ncclAllGather(const void *from, void *to, size_t count, int type, const struct communicator *communicator) {
    size_t bytes = count * element_bytes(type);
    for (int rank = 0; rank < communicator->ranks; rank++) {
        vgpu_memory_copy((char *)to + (size_t)rank * bytes, from, bytes);
    }
    return SUCCESS;
}

API int ncclReduceScatter(const void *from, void *to, size_t count, int type, int operation,
                          const struct communicator *communicator) {
    (void)operation;
    size_t bytes = count * element_bytes(type);
    vgpu_memory_copy(to, (const char *)from + (size_t)communicator->rank * bytes, bytes);
    return SUCCESS;
}

API const char *ncclGetErrorString(int result) { return result ? "internal error" : "no error"; }
API const char *ncclGetLastError(void *communicator) { return (void)communicator, ""; }
