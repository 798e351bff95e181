/* NCCL: communicators (communicators.c), messages between processes (messages.c), collectives (collectives.c). */
#ifndef VIRTUAL_GPU_NCCL_H
#define VIRTUAL_GPU_NCCL_H

#include "common.h"

/* ncclResult_t */
enum { CUDA_ERROR = 1, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6 };

#define NAME_BYTES 160

struct communicator {
    char name[NAME_BYTES]; /* the same in all its ranks, and no other's */
    int ranks;             /* 0: not known, of a group that a lone rank split off */
    int rank, device;
    int children;          /* splits and shrinks */
    bool charged;          /* its buffers are counted as taken */
    int error;             /* ncclResult_t of an operation that failed */
    uint64_t next;         /* number of the next collective that moves values */
    uint64_t unfinished;   /* the first that has not ended */
    uint64_t removed;      /* own messages before it are gone */
    uint64_t *read_by;     /* of each rank: it has read all before */
    uint64_t *sent, *received; /* messages to and from each rank */
};

/* A message's name: which collective of whom (peer: who shall read it; -1: all). */
struct message {
    const struct communicator *of;
    uint64_t number;
    int sender, peer;
};

/* messages.c */
bool message_put(const struct communicator *of, uint64_t number, int peer, const void *bytes, size_t count);
/* Reads it, `count` bytes of it from `offset` on if it is there. 0: not yet. -1: its sender is dead. 1: read. */
int message_get(const struct message *message, size_t offset, void *bytes, size_t count, uint64_t *read_by_sender);
void message_remove(const struct message *message);
void communicator_announce(const struct communicator *communicator);

/* Waits for the bytes of every rank, in their order. ncclResult_t. */
int exchange(struct communicator *communicator, const void *own, void *all, size_t count);
/* collectives.c: its operations that have not ended are forgotten. */
void communicator_forget(struct communicator *communicator);

#endif
