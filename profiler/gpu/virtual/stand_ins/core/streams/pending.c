/* What a stream waits for: receiving from another process. Everything else is done when it is asked for.
 *
 * An operation is known to the stream it was given to, and by events to the streams that wait for that one.
 * It ends when somebody waits for one of them, or asks whether it has ended.
 */
#include "common.h"
#include "pending.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct operation {
    uint64_t number;
    vgpu_advance *advance;
    void *object;
    const void **streams;
    size_t streams_count;
    struct operation *next;
};

static struct operation *first; /* in the order they were given */
static _Atomic size_t count;
static uint64_t last_number;

static bool concerns(const struct operation *operation, const void *stream) {
    for (size_t i = 0; i < operation->streams_count; i++) {
        if (operation->streams[i] == stream) return true;
    }
    return false;
}

static void tell(struct operation *operation, const void *stream) {
    if (concerns(operation, stream)) return;
    const void **grown = realloc(operation->streams, (operation->streams_count + 1) * sizeof *grown);
    if (!grown) abort();
    operation->streams = grown;
    grown[operation->streams_count++] = stream;
}

static void drop(struct operation **link) {
    struct operation *operation = *link;
    *link = operation->next;
    atomic_fetch_sub(&count, 1);
    free((void *)operation->streams);
    free(operation);
}

/* What the parent waits for is not the child's. */
static void drop_all(void) {
    while (first) drop(&first);
}

static void tell_children(void) { vgpu_in_each_child(drop_all); }

API void vgpu_pending_add(const void *stream, vgpu_advance *advance, void *object) {
    static pthread_once_t told = PTHREAD_ONCE_INIT;
    pthread_once(&told, tell_children);
    struct operation *operation = calloc(1, sizeof *operation);
    if (!operation) abort();
    operation->advance = advance;
    operation->object = object;
    tell(operation, stream);
    vgpu_lock();
    operation->number = ++last_number;
    struct operation **link = &first;
    while (*link) link = &(*link)->next;
    *link = operation;
    atomic_fetch_add(&count, 1);
    vgpu_unlock();
}

API void vgpu_pending_drop(bool (*of)(void *object, const void *owner), const void *owner) {
    vgpu_lock();
    for (struct operation **link = &first; *link;) {
        if (of((*link)->object, owner)) {
            drop(link);
        } else {
            link = &(*link)->next;
        }
    }
    vgpu_unlock();
}

/* Every operation gets on as far as it can, those of one owner in their order. */
static bool advance(bool (*wanted)(const struct operation *, const void *), const void *of, int *failed) {
    bool left = false;
    vgpu_lock();
    for (struct operation **link = &first; *link;) {
        struct operation *operation = *link;
        bool mine = wanted(operation, of);
        int result = operation->advance(operation->object);
        if (result == VGPU_NOT_YET) {
            left = left || mine;
            link = &operation->next;
            continue;
        }
        if (result == VGPU_FAILED && mine) *failed = UNKNOWN_ERROR;
        drop(link);
    }
    vgpu_unlock();
    return left;
}

static bool of_stream(const struct operation *operation, const void *stream) { return concerns(operation, stream); }

static bool of_any(const struct operation *operation, const void *none) {
    (void)operation, (void)none;
    return true;
}

static bool of_event(const struct operation *operation, const void *waits) {
    const struct vgpu_waits *those = waits;
    for (size_t i = 0; i < those->count; i++) {
        if (those->numbers[i] == operation->number) return true;
    }
    return false;
}

static int until_done(bool (*wanted)(const struct operation *, const void *), const void *of) {
    int failed = SUCCESS;
    for (long pause_ns = 20000; atomic_load(&count) && advance(wanted, of, &failed);) {
        nanosleep(&(struct timespec){0, pause_ns}, NULL);
        if (pause_ns < 2000000) pause_ns += pause_ns / 2;
    }
    return failed;
}

API int vgpu_wait_for_data(const void *stream) { return until_done(of_stream, stream); }

int vgpu_pending_settle(void) { return until_done(of_any, NULL); }

int vgpu_waits_settle(const struct vgpu_waits *waits) { return until_done(of_event, waits); }

API bool vgpu_stream_waits(const void *stream) {
    int failed = SUCCESS;
    return atomic_load(&count) && advance(of_stream, stream, &failed);
}

bool vgpu_waits_left(const struct vgpu_waits *waits) {
    int failed = SUCCESS;
    return waits->count && atomic_load(&count) && advance(of_event, waits, &failed);
}

void vgpu_waits_record(struct vgpu_waits *waits, const void *stream) {
    waits->count = 0;
    if (!atomic_load(&count)) return;
    vgpu_lock();
    for (struct operation *operation = first; operation; operation = operation->next) {
        if (!concerns(operation, stream)) continue;
        uint64_t *grown = realloc(waits->numbers, (waits->count + 1) * sizeof *grown);
        if (!grown) abort();
        waits->numbers = grown;
        grown[waits->count++] = operation->number;
    }
    vgpu_unlock();
}

void vgpu_waits_join(const struct vgpu_waits *waits, const void *stream) {
    if (!waits->count || !atomic_load(&count)) return;
    vgpu_lock();
    for (struct operation *operation = first; operation; operation = operation->next) {
        if (of_event(operation, waits)) tell(operation, stream);
    }
    vgpu_unlock();
}
