/* Every block that PyTorch's CUDA allocator hands out and takes back, written to a file as it happens.
 *
 * CUDACachingAllocator reports each block to c10::reportMemoryUsageToProfiler, and each request that it refuses
 * to c10::reportOutOfMemoryToProfiler (c10/core/Allocator.cpp), through libc10_cuda's procedure linkage table
 * and under the allocator's own lock: preloaded, the functions below stand before them, see every event of
 * every thread in order, and pass it on. The program's own profiler and memory history are not touched.
 *
 * Where its segments lie, the stand-ins' own memory tells (core/memory.c).
 *
 * What was asked for, and by which place of the program, is known outside that lock only, where taking
 * Python's is safe: events_attach puts a function before the allocator's `allocate`, the third entry of
 * c10::Allocator's virtual table, which notes both for the thread.
 *
 * The file is mapped, so that what a killed process had written is there. Little-endian records of 48 bytes.
 */
#include "operation.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REPORT_USAGE _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE
#define REPORT_OUT_OF_MEMORY _ZN3c1027reportOutOfMemoryToProfilerElmmNS_6DeviceE
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

enum { CUDA = 1 };            /* c10::DeviceType */
enum { ALLOCATE_ENTRY = 2 };  /* of c10::Allocator's virtual table, after its two destructors */
enum { TABLE_ENTRIES = 256 }; /* more than the allocator's table has; what follows it is copied along, unused */
enum { WINDOW_RECORDS = 65536 };

enum kind { ALLOCATED = 1, FREED = 2, MARKED = 3, REFUSED = 4 }; /* 5 to 8: enum memory_change */
enum { MOST_STREAMS = 256 };

struct device {
    int8_t type;
    int8_t index;
};

struct record {
    uint64_t address; /* of the block; MARKED: the mark's number */
    uint64_t size_bytes;
    uint64_t requested_bytes; /* 0: not known */
    uint64_t allocated_bytes; /* of the device after the event; REFUSED: at it */
    uint64_t reserved_bytes;
    uint32_t place; /* 0: not known */
    uint8_t kind;
    uint8_t device;
    uint8_t stream; /* ALLOCATED: the current one's number in the order of their first use, 0 the default one */
    uint8_t unused;
};

_Static_assert(sizeof(struct record) == 48, "the reader's layout");

/* c10::DataPtr as it is returned: data, context, deleter, device. */
struct data_pointer {
    void *data, *context, *deleter;
    struct device device;
};

/* c10::cuda::CUDAStream: a device and an id, which is 0 for the default stream of any device. */
struct stream {
    struct device device;
    int64_t id;
};

typedef struct stream current_stream(int8_t);
typedef void report_usage(void *, int64_t, size_t, size_t, struct device);
typedef void report_out_of_memory(int64_t, size_t, size_t, struct device);
typedef struct data_pointer allocate(void *, size_t);
typedef int64_t place_of(size_t, const char *operation);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static report_usage *next_usage;
static report_out_of_memory *next_out_of_memory;
static current_stream *stream_of;
static struct record *window; /* WINDOW_RECORDS of the file, NULL before the first event */
static uint64_t written;
static int file = -1;
static char folder[4096]; /* of this process, "" before the first event */
static int stopped;       /* a forked child's memory, a full disk */

static allocate *next_allocate;
static place_of *_Atomic place;
static void (*interrupt)(void);
static __thread uint64_t asked_bytes;
static __thread uint32_t asked_at;

static void *of_library(const char *file_name, const char *name) {
    void *library = dlopen(file_name, RTLD_LAZY | RTLD_NOLOAD);
    void *found = library ? dlsym(library, name) : NULL;
    if (library) dlclose(library);
    return found;
}
static void *of_c10(const char *name) { return of_library("libc10.so", name); }

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }
static void in_child(void) {
    /* The mapped file is the parent's; a child that inherits CUDA cannot use it. */
    if (window) {
        munmap(window, WINDOW_RECORDS * sizeof *window);
        close(file);
        window = NULL;
        stopped = 1;
    }
    pthread_mutex_unlock(&lock);
}

static void find_functions(void) {
    next_usage = (report_usage *)of_c10(TEXT(REPORT_USAGE));
    next_out_of_memory = (report_out_of_memory *)of_c10(TEXT(REPORT_OUT_OF_MEMORY));
    stream_of = (current_stream *)of_library("libc10_cuda.so", "_ZN3c104cuda20getCurrentCUDAStreamEa");
    pthread_atfork(before_fork, in_parent, in_child);
}

/* The number of the thread's current stream; the last one stands for all beyond MOST_STREAMS. */
static uint8_t stream_number(struct device device) {
    static int64_t ids[MOST_STREAMS]; /* of a number; that of 0 is 0 */
    static int known = 1;
    int64_t id = stream_of ? stream_of(device.index).id : 0;
    int number = 0;
    pthread_mutex_lock(&lock);
    while (number < known && ids[number] != id) number++;
    if (number == MOST_STREAMS) number--;
    if (number == known) ids[known++] = id;
    pthread_mutex_unlock(&lock);
    return (uint8_t)number;
}

/* A folder of this process's own below PROFILER_EVENTS; a process that starts another program keeps its number. */
static int open_folder(void) {
    const char *above = getenv("PROFILER_EVENTS");
    if (!above) return 0;
    for (int start = 0; start < 1000; start++) {
        int length = snprintf(folder, sizeof folder, "%s/%ld-%d", above, (long)getpid(), start);
        if (length >= (int)sizeof folder - 8) break;
        if (!mkdir(folder, 0700)) return 1;
    }
    folder[0] = 0;
    return 0;
}

/* The next window of the file; 0 where there is nowhere to write. */
static int open_window(void) {
    size_t bytes = WINDOW_RECORDS * sizeof *window;
    off_t start = (off_t)(written * sizeof *window);
    if (window) munmap(window, bytes);
    window = NULL;
    if (file < 0 && open_folder()) {
        char path[sizeof folder + 8];
        snprintf(path, sizeof path, "%s/events", folder);
        file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    /* Blocks are really taken: a full disk is an error here, and not a signal at the first write. */
    if (file < 0 || posix_fallocate(file, start, (off_t)bytes)) return 0;
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, start);
    if (mapped == MAP_FAILED) return 0;
    window = mapped;
    return 1;
}

/* An empty file says that what follows is missing. */
static void say_that_it_stopped(void) {
    char path[sizeof folder + 8];
    snprintf(path, sizeof path, "%s/stopped", folder);
    int empty = *folder ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (empty >= 0) close(empty);
}

static void write_record(struct record record) {
    pthread_mutex_lock(&lock);
    if (!stopped && written % WINDOW_RECORDS == 0) {
        stopped = !open_window();
        if (stopped) say_that_it_stopped();
    }
    if (!stopped) {
        struct record *slot = &window[written % WINDOW_RECORDS];
        uint8_t kind = record.kind;
        record.kind = 0;
        *slot = record;
        __atomic_store_n(&slot->kind, kind, __ATOMIC_RELEASE); /* a record counts when it is whole */
        written++;
    }
    pthread_mutex_unlock(&lock);
}

EXPORT void REPORT_USAGE(void *block, int64_t change_bytes, size_t allocated, size_t reserved, struct device device) {
    pthread_once(&once, find_functions);
    if (device.type == CUDA) {
        int born = change_bytes >= 0;
        struct record record = {
            .address = (uintptr_t)block,
            .size_bytes = (uint64_t)(born ? change_bytes : -change_bytes),
            .allocated_bytes = allocated,
            .reserved_bytes = reserved,
            .kind = born ? ALLOCATED : FREED,
            .device = (uint8_t)device.index,
            .stream = born ? stream_number(device) : 0,
        };
        if (born && asked_bytes <= record.size_bytes) {
            record.requested_bytes = asked_bytes;
            record.place = asked_at;
        }
        write_record(record);
    }
    if (next_usage) next_usage(block, change_bytes, allocated, reserved, device);
}

EXPORT void REPORT_OUT_OF_MEMORY(int64_t size_bytes, size_t allocated, size_t reserved, struct device device) {
    pthread_once(&once, find_functions);
    if (device.type == CUDA)
        write_record((struct record){
            .size_bytes = (uint64_t)size_bytes,
            .requested_bytes = asked_bytes,
            .allocated_bytes = allocated,
            .reserved_bytes = reserved,
            .place = asked_at,
            .kind = REFUSED,
            .device = (uint8_t)device.index,
        });
    asked_bytes = asked_at = 0; /* an exception follows, past noting_allocate */
    if (next_out_of_memory) next_out_of_memory(size_bytes, allocated, reserved, device);
}

/* Called by core/memory.c (common.h). Whose memory it is, the blocks that lie in it tell. */
EXPORT void events_memory(int change, const void *address, size_t bytes, int device) {
    pthread_once(&once, find_functions);
    write_record((struct record){
        .address = (uintptr_t)address, .size_bytes = bytes, .kind = (uint8_t)change, .device = (uint8_t)device});
}

static struct data_pointer noting_allocate(void *allocator, size_t bytes) {
    place_of *asks = place;
    int64_t answer = asks && bytes ? asks(bytes, operation_now()) : 0;
    if (answer < 0 && interrupt) interrupt(); /* Ctrl-C came while Python said the place */
    asked_bytes = bytes;
    asked_at = answer > 0 ? (uint32_t)answer : 0;
    struct data_pointer result = next_allocate(allocator, bytes);
    asked_bytes = asked_at = 0;
    return result;
}

/* From now on `says` is asked for the place of each allocation before it is made, without the allocator's lock:
 * a number of its own, 0 for none, -1 if a signal for Python's main thread was swallowed. Returns 0, or -1
 * where this torch is built otherwise: sizes asked for and places stay unknown then. */
EXPORT int events_attach(place_of *says) {
    void *(*allocator_of)(const int8_t *) = (void *(*)(const int8_t *))of_c10("_ZN3c1012GetAllocatorERKNS_10DeviceTypeE");
    int8_t type = CUDA;
    void *allocator = allocator_of ? allocator_of(&type) : NULL;
    if (!allocator) return -1;
    interrupt = (void (*)(void))dlsym(RTLD_DEFAULT, "PyErr_SetInterrupt");
    if (!next_allocate) {
        /* A table of our own for this one object: two words before it (offset and type), then the functions. */
        void **table = malloc((TABLE_ENTRIES + 2) * sizeof *table);
        if (!table) return -1;
        memcpy(table, *(void ***)allocator - 2, (TABLE_ENTRIES + 2) * sizeof *table);
        next_allocate = (allocate *)table[2 + ALLOCATE_ENTRY];
        table[2 + ALLOCATE_ENTRY] = (void *)noting_allocate;
        __atomic_store_n((void ***)allocator, table + 2, __ATOMIC_RELEASE);
    }
    operation_observe();
    place = says;
    return 0;
}

/* Nothing is asked any more; events go on. */
EXPORT void events_detach(void) {
    place = NULL;
    operation_ignore();
}

/* A point of the stream that the caller names: `number` is its own. */
EXPORT void events_mark(uint64_t number) {
    pthread_once(&once, find_functions);
    write_record((struct record){.address = number, .kind = MARKED});
}

/* How many records this process has written. */
EXPORT uint64_t events_written(void) {
    pthread_mutex_lock(&lock);
    uint64_t count = written;
    pthread_mutex_unlock(&lock);
    return count;
}

/* The folder that this process writes to; "" before its first event. */
EXPORT const char *events_folder(void) { return folder; }
