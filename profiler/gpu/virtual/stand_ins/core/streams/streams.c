/* Streams, events and captures.
 *
 * Work on a stream is done when it is asked for, so that events end at once; what comes from another process does
 * not (pending.c). With events_wait they end later, when somebody waits: as late as a GPU may be.
 */
#include "common.h"
#include "pending.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct stream {
    int device, priority;
    uint64_t capture; /* 0: not capturing */
    void *graph;
    struct stream *next;
};

struct event {
    double recorded_ms;
    uint64_t capture;
    void *graph;
    struct vgpu_waits waits;
    uint64_t recorded; /* 0: never */
    int asked;         /* how often whether it has ended, since it was recorded */
};

#define ASKED_MOST 10000 /* a program that asks until an event has ended does not wait */
static _Atomic uint64_t records, ended = 0; /* events recorded; those of them that have ended */

static struct stream *streams; /* all that are alive */
static uint64_t captures;

/* The default streams are small integers: of the legacy, the per-thread kind, or none. */
static struct stream *own(const void *stream) { return (uintptr_t)stream < 16 ? NULL : (struct stream *)(uintptr_t)stream; }

API void *vgpu_stream_create(int priority) {
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) return NULL;
    stream->device = vgpu_current_device();
    stream->priority = priority;
    vgpu_lock();
    stream->next = streams;
    streams = stream;
    vgpu_unlock();
    return stream;
}

API int vgpu_stream_destroy(void *handle) {
    struct stream *stream = own(handle);
    if (!stream) return INVALID_VALUE;
    vgpu_lock();
    struct stream **link = &streams;
    while (*link && *link != stream) link = &(*link)->next;
    bool known = *link != NULL;
    if (known) *link = stream->next;
    vgpu_unlock();
    if (known) free(stream);
    return known ? SUCCESS : INVALID_VALUE;
}

API int vgpu_stream_priority(const void *stream) { return own(stream) ? own(stream)->priority : 0; }

API int vgpu_stream_device(const void *stream) { return own(stream) ? own(stream)->device : vgpu_current_device(); }

API uint64_t vgpu_stream_capture(void *handle, void **graph) {
    struct stream *stream = own(handle);
    if (!stream) return 0;
    vgpu_lock();
    uint64_t capture = stream->capture;
    if (graph) *graph = stream->graph;
    vgpu_unlock();
    return capture;
}

API int vgpu_stream_begin_capture(void *handle, void *graph) {
    struct stream *stream = own(handle);
    if (!stream) return 900; /* the legacy stream cannot be captured */
    vgpu_lock();
    bool busy = stream->capture != 0;
    if (!busy) {
        stream->capture = ++captures;
        stream->graph = graph ? graph : vgpu_new_handle();
    }
    vgpu_unlock();
    return busy ? 901 : SUCCESS;
}

API int vgpu_stream_end_capture(void *handle, void **graph) {
    struct stream *stream = own(handle);
    if (!stream) return INVALID_VALUE;
    vgpu_lock();
    uint64_t capture = stream->capture;
    if (graph) *graph = stream->graph;
    if (capture) { /* the streams that joined by an event end with it */
        for (struct stream *other = streams; other; other = other->next) {
            if (other->capture == capture) other->capture = 0;
        }
    }
    vgpu_unlock();
    return capture ? SUCCESS : INVALID_VALUE;
}

API void vgpu_stream_wait_event(void *handle, void *of) {
    struct stream *stream = own(handle);
    struct event *event = of;
    if (!event) return;
    vgpu_waits_join(&event->waits, handle);
    if (!stream) return;
    vgpu_lock();
    bool alive = false;
    for (struct stream *other = streams; event->capture && other; other = other->next) {
        alive = alive || other->capture == event->capture;
    }
    if (alive && !stream->capture) {
        stream->capture = event->capture;
        stream->graph = event->graph;
    }
    vgpu_unlock();
}

API void *vgpu_event_create(void) { return calloc(1, sizeof(struct event)); }

API int vgpu_event_destroy(void *handle) {
    struct event *event = handle;
    if (event) free(event->waits.numbers);
    free(event);
    return SUCCESS;
}

API void vgpu_event_record(void *handle, void *stream) {
    struct event *event = handle;
    if (!event) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->recorded_ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
    event->graph = NULL;
    event->capture = vgpu_stream_capture(stream, &event->graph);
    event->recorded = atomic_fetch_add(&records, 1) + 1;
    event->asked = 0;
    vgpu_waits_record(&event->waits, stream);
}

/* All that were recorded have ended. */
static void end_events(void) { atomic_store(&ended, atomic_load(&records)); }

API bool vgpu_event_waits(void *handle) {
    struct event *event = handle;
    if (!event) return false;
    if (vgpu_waits_left(&event->waits)) return true;
    return vgpu_card()->events_wait && event->recorded > atomic_load(&ended) && event->asked++ < ASKED_MOST;
}

API int vgpu_event_settle(void *handle) {
    struct event *event = handle;
    end_events();
    return event ? vgpu_waits_settle(&event->waits) : SUCCESS;
}

API int vgpu_settle(const void *stream) {
    end_events();
    return vgpu_wait_for_data(stream);
}

API int vgpu_settle_all(void) {
    end_events();
    return vgpu_pending_settle();
}

/* The host's time between the two, never 0: a program may divide by it. Kernels take no time here, so that less than
 * 10 ms is noise and counts as 10: who chooses by time (cuDNN's benchmark, an autotuner) finds all equal and chooses the
 * same each run, and who repeats for a time (Triton's do_bench, for 100 ms) repeats few times. */
API float vgpu_event_elapsed_ms(const void *start, const void *end) {
    const struct event *first = start, *last = end;
    double elapsed = first && last ? last->recorded_ms - first->recorded_ms : 0;
    return elapsed > 10 ? (float)elapsed : 10;
}

API void *vgpu_new_handle(void) {
    static _Atomic uintptr_t last = 0x10000;
    return (void *)(atomic_fetch_add(&last, 16) + 16);
}
