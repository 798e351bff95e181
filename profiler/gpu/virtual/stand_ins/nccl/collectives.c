/* NCCL's collectives and point-to-point calls.
 *
 * Small payloads carry values: between processes by messages, and for a lone rank as if every rank had what it
 * has. Large ones are not moved, and nobody waits for them: what kernels would have computed is not there anyway.
 */
#include "nccl.h"
#include "core/streams/pending.h"
#include "reduce.h"

#include <stdlib.h>
#include <string.h>

#define SMALL_INTEGERS (16 * MIB) /* pickled objects, sizes, indices */
#define SMALL_FLOATS ((size_t)64 << 10)

enum kind { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, GATHER, SCATTER, SEND, RECEIVE };

struct collective {
    enum kind kind;
    struct communicator *of;
    const void *from;
    void *to;
    size_t count; /* elements of one rank's part */
    int type, reduction;
    int root; /* or the peer */
    const void *stream;
};

struct receiving {
    struct collective what;
    uint64_t number;
    int have;    /* ranks whose part has come */
    char *parts; /* of all ranks, in their order */
};

static size_t part_bytes(const struct collective *c) { return c->count * type_bytes(c->type); }

static int ranks_of(const struct collective *c) { return c->of->ranks ? c->of->ranks : 1; }

static bool of_many_parts(enum kind kind) {
    return kind == ALL_GATHER || kind == REDUCE_SCATTER || kind == ALL_TO_ALL || kind == GATHER || kind == SCATTER;
}

static bool small(const struct collective *c) {
    size_t bytes = part_bytes(c) * (of_many_parts(c->kind) ? (size_t)ranks_of(c) : 1);
    return bytes && bytes <= (type_is_integer(c->type) ? SMALL_INTEGERS : SMALL_FLOATS);
}

static bool there(const void *address) {
    void *start;
    size_t bytes;
    return !vgpu_memory_owns(address) || vgpu_memory_block(address, &start, &bytes);
}

/* What every rank would have if all had what this one has. */
static void as_if_all_were_alike(const struct collective *c) {
    const struct communicator *of = c->of;
    size_t part = part_bytes(c);
    size_t own = of->ranks ? (size_t)of->rank * part : 0;
    switch (c->kind) {
    case ALL_REDUCE:
    case REDUCE:
        if (c->kind == REDUCE && c->root != of->rank) return;
        vgpu_memory_copy(c->to, c->from, part);
        reduce_alike(c->to, c->count, c->type, c->reduction, ranks_of(c));
        return;
    case REDUCE_SCATTER:
        vgpu_memory_copy(c->to, (const char *)c->from + own, part);
        reduce_alike(c->to, c->count, c->type, c->reduction, ranks_of(c));
        return;
    case BROADCAST:
        vgpu_memory_copy(c->to, c->from, part);
        return;
    case ALL_GATHER:
    case GATHER:
        if (c->kind == GATHER && c->root != of->rank) return;
        if (!of->ranks) { /* a group of unknown size: its own place alone */
            vgpu_memory_copy((char *)c->to + (size_t)of->rank * part, c->from, part);
            return;
        }
        for (int rank = 0; rank < of->ranks; rank++) {
            vgpu_memory_copy((char *)c->to + (size_t)rank * part, c->from, part);
        }
        return;
    case ALL_TO_ALL: /* what others have for this one is what it has for itself */
        for (int rank = 0; rank < of->ranks; rank++) {
            vgpu_memory_copy((char *)c->to + (size_t)rank * part, (const char *)c->from + own, part);
        }
        return;
    case SCATTER:
        if (c->root == of->rank) vgpu_memory_copy(c->to, (const char *)c->from + own, part);
        else JOURNAL(ASSUMED, "what another rank scatters to a lone rank reads as before");
        return;
    case RECEIVE:
        JOURNAL(ASSUMED, "what another rank sends to a lone rank reads as before");
        return;
    case SEND:
        return;
    }
}

/* Of each rank's message: from where on, and how much, this one needs. */
static size_t offset_in_message(const struct collective *c) {
    bool own_part = c->kind == REDUCE_SCATTER || c->kind == ALL_TO_ALL || c->kind == SCATTER;
    return own_part ? (size_t)c->of->rank * part_bytes(c) : 0;
}

static bool sends(const struct collective *c) {
    return c->kind == SEND || (c->kind != RECEIVE && !((c->kind == BROADCAST || c->kind == SCATTER) && c->root != c->of->rank));
}

static bool receives(const struct collective *c) {
    return c->kind != SEND && !((c->kind == REDUCE || c->kind == GATHER) && c->root != c->of->rank);
}

static bool from_one(const struct collective *c) {
    return c->kind == BROADCAST || c->kind == SCATTER || c->kind == RECEIVE;
}

static void finish(const struct receiving *r) {
    const struct collective *c = &r->what;
    size_t part = part_bytes(c);
    if (!there(c->to)) return; /* freed meanwhile */
    if (c->kind == ALL_REDUCE || c->kind == REDUCE || c->kind == REDUCE_SCATTER) {
        reduce_parts(r->parts, c->count, c->type, c->reduction, c->of->ranks);
        memcpy(c->to, r->parts, part);
    } else {
        memcpy(c->to, r->parts, part * (from_one(c) ? 1 : (size_t)c->of->ranks));
    }
}

/* Own messages that all have read are removed. */
static void clean(struct communicator *of) {
    uint64_t all = of->unfinished;
    for (int rank = 0; rank < of->ranks; rank++) {
        if (rank != of->rank && of->read_by[rank] < all) all = of->read_by[rank];
    }
    for (; of->removed < all; of->removed++) message_remove(&(struct message){of, of->removed, of->rank, -1});
}

static void release(struct receiving *r) {
    free(r->parts);
    free(r);
}

static int fail(struct receiving *r) {
    __atomic_store_n(&r->what.of->error, REMOTE_ERROR, __ATOMIC_RELAXED);
    release(r);
    return VGPU_FAILED;
}

static int advance_from_one(struct receiving *r) {
    struct collective *c = &r->what;
    bool point_to_point = c->kind == RECEIVE;
    struct message message = {c->of, r->number, c->root, point_to_point ? c->of->rank : -1};
    uint64_t *read = point_to_point ? NULL : &c->of->read_by[c->root];
    int got = message_get(&message, offset_in_message(c), r->parts, part_bytes(c), read);
    if (got == 0) return VGPU_NOT_YET;
    if (got < 0) return fail(r);
    if (point_to_point) message_remove(&message);
    finish(r);
    return VGPU_DONE;
}

static int advance(void *object) {
    struct receiving *r = object;
    struct communicator *of = r->what.of;
    bool collective = r->what.kind != RECEIVE;
    if (of->error) return fail(r); /* what came before it has failed */
    if (collective && r->number != of->unfinished) return VGPU_NOT_YET; /* in their order */
    int result = VGPU_DONE;
    if (from_one(&r->what)) {
        result = advance_from_one(r);
        if (result) return result;
    } else {
        size_t part = part_bytes(&r->what);
        for (; r->have < of->ranks; r->have++) {
            int got = message_get(&(struct message){of, r->number, r->have, -1}, offset_in_message(&r->what),
                                  r->parts + (size_t)r->have * part, part, &of->read_by[r->have]);
            if (got == 0) return VGPU_NOT_YET;
            if (got < 0) return fail(r);
        }
        finish(r);
    }
    if (collective) {
        of->unfinished = r->number + 1;
        clean(of);
    }
    release(r);
    return VGPU_DONE;
}

/* A collective in which this rank only sends ends when those before have. */
static int advance_sender(void *object) {
    struct receiving *r = object;
    if (r->what.of->error) return fail(r);
    if (r->number != r->what.of->unfinished) return VGPU_NOT_YET;
    r->what.of->unfinished++;
    release(r);
    return VGPU_DONE;
}

static bool of_communicator(void *object, const void *owner) {
    struct receiving *r = object;
    bool is = r->what.of == owner;
    if (is) release(r);
    return is;
}

void communicator_forget(struct communicator *communicator) { vgpu_pending_drop(of_communicator, communicator); }

static size_t bytes_to_send(const struct collective *c) {
    bool all_parts = c->kind == REDUCE_SCATTER || c->kind == ALL_TO_ALL || c->kind == SCATTER;
    return part_bytes(c) * (all_parts ? (size_t)c->of->ranks : 1);
}

static int between_processes(const struct collective *c) {
    struct communicator *of = c->of;
    bool point_to_point = c->kind == SEND || c->kind == RECEIVE;
    if (point_to_point && (c->root < 0 || c->root >= of->ranks)) return INVALID_ARGUMENT;
    uint64_t number = c->kind == SEND ? of->sent[c->root]++ : c->kind == RECEIVE ? of->received[c->root]++ : of->next++;
    if (sends(c) && !message_put(of, number, point_to_point ? c->root : -1, c->from, bytes_to_send(c))) return SYSTEM_ERROR;
    if (c->kind == SEND) return SUCCESS;
    struct receiving *r = calloc(1, sizeof *r);
    if (r) *r = (struct receiving){*c, number, 0, NULL};
    if (r && receives(c)) r->parts = malloc(part_bytes(c) * (from_one(c) ? 1 : (size_t)of->ranks));
    if (!r || (receives(c) && !r->parts)) {
        free(r);
        return SYSTEM_ERROR;
    }
    vgpu_pending_add(c->stream, receives(c) ? advance : advance_sender, r);
    return SUCCESS;
}

/* The buffers of a communicator, which NCCL takes when it is first used. */
static int charge(struct communicator *communicator) {
    size_t bytes = vgpu_card()->nccl_bytes;
    if (communicator->charged || communicator->ranks == 1 || !bytes) return SUCCESS;
    if (vgpu_memory_take(bytes, communicator->device)) return CUDA_ERROR;
    JOURNAL(ASSUMED, "NCCL takes of the device, for each communicator, what rings and trees typically take");
    communicator->charged = true;
    return SUCCESS;
}

static int run(const struct collective *c) {
    struct communicator *of = c->of;
    if (!of) return INVALID_ARGUMENT;
    if (of->error) return of->error;
    vgpu_lock();
    int result = charge(of);
    void *graph;
    bool captured = vgpu_stream_capture((void *)(uintptr_t)c->stream, &graph) != 0;
    if (!result && !captured && small(c)) {
        if (vgpu_card()->lone_rank || of->ranks == 1) {
            as_if_all_were_alike(c);
        } else {
            result = between_processes(c);
        }
    }
    vgpu_unlock();
    return result;
}

int exchange(struct communicator *communicator, const void *own, void *all, size_t count) {
    if (communicator->ranks == 1) {
        memcpy(all, own, count);
        return SUCCESS;
    }
    const void *stream = (const void *)(uintptr_t)15; /* none of the program's: they are 0 to 2, or addresses */
    int result = run(&(struct collective){ALL_GATHER, communicator, own, all, count, 0, 0, 0, stream});
    if (!result && vgpu_wait_for_data(stream)) result = REMOTE_ERROR;
    return result;
}

API int ncclAllReduce(const void *from, void *to, size_t count, int type, int reduction, struct communicator *of,
                      const void *stream) {
    return run(&(struct collective){ALL_REDUCE, of, from, to, count, type, reduction, 0, stream});
}

API int ncclReduce(const void *from, void *to, size_t count, int type, int reduction, int root, struct communicator *of,
                   const void *stream) {
    return run(&(struct collective){REDUCE, of, from, to, count, type, reduction, root, stream});
}

API int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, struct communicator *of,
                      const void *stream) {
    return run(&(struct collective){BROADCAST, of, from, to, count, type, 0, root, stream});
}

API int ncclBcast(void *buffer, size_t count, int type, int root, struct communicator *of, const void *stream) {
    return ncclBroadcast(buffer, buffer, count, type, root, of, stream);
}

API int ncclAllGather(const void *from, void *to, size_t count, int type, struct communicator *of, const void *stream) {
    return run(&(struct collective){ALL_GATHER, of, from, to, count, type, 0, 0, stream});
}

API int ncclReduceScatter(const void *from, void *to, size_t count, int type, int reduction, struct communicator *of,
                          const void *stream) {
    return run(&(struct collective){REDUCE_SCATTER, of, from, to, count, type, reduction, 0, stream});
}

API int ncclAlltoAll(const void *from, void *to, size_t count, int type, struct communicator *of, const void *stream) {
    return run(&(struct collective){ALL_TO_ALL, of, from, to, count, type, 0, 0, stream});
}

API int ncclGather(const void *from, void *to, size_t count, int type, int root, struct communicator *of,
                   const void *stream) {
    return run(&(struct collective){GATHER, of, from, to, count, type, 0, root, stream});
}

API int ncclScatter(const void *from, void *to, size_t count, int type, int root, struct communicator *of,
                    const void *stream) {
    return run(&(struct collective){SCATTER, of, from, to, count, type, 0, root, stream});
}

API int ncclSend(const void *from, size_t count, int type, int peer, struct communicator *of, const void *stream) {
    return run(&(struct collective){SEND, of, from, NULL, count, type, 0, peer, stream});
}

API int ncclRecv(void *to, size_t count, int type, int peer, struct communicator *of, const void *stream) {
    return run(&(struct collective){RECEIVE, of, NULL, to, count, type, 0, peer, stream});
}

/* Calls of a group need not wait for its end: sending waits for nobody. */
API int ncclGroupStart(void) { return SUCCESS; }
API int ncclGroupEnd(void) { return SUCCESS; }

API int ncclRedOpCreatePreMulSum(int *reduction) {
    JOURNAL(HARMLESS, "ncclRedOpCreatePreMulSum: the factor is 1: floats are no sizes");
    *reduction = 5; /* ncclNumOps: the first that is not built in */
    return SUCCESS;
}
