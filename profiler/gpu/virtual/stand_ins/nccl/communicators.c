/* NCCL's communicators. Ranks find each other by the unique id, which the program carries between them. */
#include "nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct unique_id {
    char bytes[128];
};

static int create(struct communicator **to, const char *name, int ranks, int rank, int device) {
    if (!to || ranks < 0 || rank < 0 || (ranks && rank >= ranks)) return INVALID_ARGUMENT;
    struct communicator *made = calloc(1, sizeof *made);
    size_t places = ranks ? (size_t)ranks : 1;
    if (made) {
        snprintf(made->name, sizeof made->name, "%s", name);
        made->ranks = ranks;
        made->rank = rank;
        made->device = device;
        made->read_by = calloc(3 * places, sizeof *made->read_by);
    }
    if (!made || !made->read_by) {
        free(made);
        return SYSTEM_ERROR;
    }
    made->sent = made->read_by + places;
    made->received = made->sent + places;
    if (!vgpu_card()->lone_rank && ranks > 1) communicator_announce(made);
    *to = made;
    return SUCCESS;
}

API int ncclGetVersion(int *version) {
    *version = CUDA_MAJOR == 12 ? 22105 : 22809;
    return SUCCESS;
}

API int ncclGetUniqueId(struct unique_id *id) {
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random) return SYSTEM_ERROR;
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "%ld-%016llx", (long)getpid(), (unsigned long long)random);
    return SUCCESS;
}

API int ncclCommGetUniqueId(void *communicator, struct unique_id *id) {
    (void)communicator;
    return ncclGetUniqueId(id);
}

API int ncclCommInitRankConfig(struct communicator **to, int ranks, struct unique_id id, int rank, void *config) {
    (void)config;
    for (size_t i = 0; i < sizeof id.bytes && id.bytes[i]; i++) { /* it becomes part of a file's name */
        if (id.bytes[i] == '/' || i + 1 == sizeof id.bytes) return INVALID_ARGUMENT;
    }
    return create(to, id.bytes, ranks, rank, vgpu_current_device());
}

API int ncclCommInitRank(struct communicator **to, int ranks, struct unique_id id, int rank) {
    return ncclCommInitRankConfig(to, ranks, id, rank, NULL);
}

API int ncclCommInitRankScalable(struct communicator **to, int ranks, int rank, int ids, struct unique_id *id,
                                 void *config) {
    return ids < 1 ? INVALID_ARGUMENT : ncclCommInitRankConfig(to, ranks, id[0], rank, config);
}

API int ncclCommInitAll(struct communicator **to, int ranks, const int *devices) {
    struct unique_id id;
    int result = ncclGetUniqueId(&id);
    for (int rank = 0; rank < ranks && !result; rank++) {
        result = create(&to[rank], id.bytes, ranks, rank, devices ? devices[rank] : rank);
    }
    return result;
}

/* Whether rank `other` stands before rank `rank` among those of one color: by key, then by rank. */
static bool before(const int (*all)[2], int other, int rank) {
    return all[other][1] < all[rank][1] || (all[other][1] == all[rank][1] && other < rank);
}

API int ncclCommSplit(struct communicator *of, int color, int key, struct communicator **to, void *config) {
    (void)config;
    *to = NULL;
    char name[NAME_BYTES];
    int length = snprintf(name, sizeof name, "%s.%d.%d", of->name, of->children++, color);
    if (length >= (int)sizeof name) return INVALID_ARGUMENT;
    if (vgpu_card()->lone_rank) {
        if (color < 0) return SUCCESS; /* NCCL_SPLIT_NOCOLOR */
        JOURNAL(ASSUMED, "ncclCommSplit of a lone rank: how many ranks it makes is not known");
        return create(to, name, 0, key < 0 ? 0 : key, of->device);
    }
    int own[2] = {color, key};
    int(*all)[2] = calloc((size_t)of->ranks, sizeof *all);
    int result = all ? exchange(of, own, all, sizeof own) : SYSTEM_ERROR;
    int ranks = 0, rank = 0;
    for (int other = 0; other < of->ranks && !result; other++) {
        if (all[other][0] != color) continue;
        ranks++;
        rank += before((const int(*)[2])all, other, of->rank);
    }
    free(all);
    return result || color < 0 ? result : create(to, name, ranks, rank, of->device);
}

API int ncclCommShrink(struct communicator *of, const int *excluded, int count, struct communicator **to, void *config,
                       int flags) {
    (void)config, (void)flags;
    char name[NAME_BYTES];
    int length = snprintf(name, sizeof name, "%s.%d.without", of->name, of->children++);
    int rank = of->rank;
    for (int i = 0; i < count; i++) {
        if (length < (int)sizeof name) {
            length += snprintf(name + length, sizeof name - (size_t)length, "-%d", excluded[i]);
        }
        rank -= excluded[i] < of->rank;
    }
    if (length >= (int)sizeof name) return INVALID_ARGUMENT;
    return create(to, name, of->ranks ? of->ranks - count : 0, rank, of->device);
}

static int destroy(struct communicator *communicator) {
    if (!communicator) return SUCCESS;
    communicator_forget(communicator);
    if (communicator->charged) vgpu_memory_give_back(vgpu_card()->nccl_bytes, communicator->device);
    free(communicator->read_by);
    free(communicator);
    return SUCCESS;
}
API int ncclCommDestroy(struct communicator *communicator) { return destroy(communicator); }
API int ncclCommAbort(struct communicator *communicator) { return destroy(communicator); }

API int ncclCommGetAsyncError(const struct communicator *communicator, int *error) {
    *error = __atomic_load_n(&communicator->error, __ATOMIC_RELAXED);
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
    *device = communicator->device;
    return SUCCESS;
}

API int ncclMemAlloc(void **address, size_t bytes) {
    return vgpu_memory_allocate(address, bytes, vgpu_current_device()) ? CUDA_ERROR : SUCCESS;
}

API int ncclMemFree(void *address) { return vgpu_memory_free(address) ? INVALID_ARGUMENT : SUCCESS; }

API int ncclCommRegister(void *communicator, void *buffer, size_t bytes, void **handle) {
    (void)communicator, (void)buffer, (void)bytes;
    *handle = vgpu_new_handle();
    return SUCCESS;
}

API int ncclCommWindowRegister(void *communicator, void *buffer, size_t bytes, void **window, int flags) {
    (void)flags;
    return ncclCommRegister(communicator, buffer, bytes, window);
}

API const char *ncclGetErrorString(int result) {
    static const char *const TEXTS[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage",
                                        "remote process exited or there was a network error", "in progress"};
    return result >= 0 && result < 8 ? TEXTS[result] : "unknown result code";
}

API const char *ncclGetLastError(void *communicator) { return (void)communicator, ""; }
