/* What the stand-ins share: the card, device memory, streams, kernels, and the journal (core/). */
#ifndef VIRTUAL_GPU_COMMON_H
#define VIRTUAL_GPU_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))
#define MAX_DEVICES 16
#define MIB ((size_t)1 << 20)

/* Results that the CUDA runtime and the driver share. */
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
    UNKNOWN_ERROR = 999,
};

/* card.c: what the file named by PROFILER_VIRTUAL_GPU says. Without one there are no devices. */
struct card {
    char name[256];
    char journal_folder[4096];
    char cudnn_library[4096];  /* the cuDNN that is installed; "": none */
    int installed;             /* GPUs of the machine */
    int devices;               /* those that the program sees */
    int physical[MAX_DEVICES]; /* which of the installed ones each of them is */
    size_t memory_bytes;   /* as cudaGetDeviceProperties reports it */
    size_t context_bytes;  /* taken by the CUDA context and the driver, of each device */
    int major, minor;
    int multiprocessors;
    int threads_per_multiprocessor;
    int blocks_per_multiprocessor;
    size_t shared_memory_per_multiprocessor_bytes;
    size_t shared_memory_per_block_optin_bytes;
    size_t reserved_shared_memory_per_block_bytes; /* by the system */
    size_t shared_memory_unit_bytes;               /* a block gets multiples of it */
    size_t l2_cache_bytes;
    size_t nvml_total_bytes;
    int memory_bus_bits;
    int clock_khz, memory_clock_khz;
    int ecc, clusters, copy_engines, pci_device_id;
    int cudnn_version;     /* that torch asks for, as cudnnGetVersion counts; 0: unknown */
    int lone_rank;         /* this process stands for one rank of many: the others are as this one */
    int events_wait;       /* events end when somebody waits for the device, not at once */
    size_t nccl_bytes;     /* what NCCL takes of a device for a communicator of several ranks */
    int rising_addresses;  /* new segments above the old ones; the driver for Linux puts them below */
};
const struct card *vgpu_card(void);
/* The attribute of cudaDeviceGetAttribute and cuDeviceGetAttribute (one numbering). */
int vgpu_card_attribute(int attribute, int device, int *value);

/* lock.c: may be taken again by the thread that holds it. */
void vgpu_lock(void);
void vgpu_unlock(void);
/* Call with the lock not held: whoever forks holds it when handlers are added. */
void vgpu_in_each_child(void (*then)(void));

/* journal.c: what was called without being modelled, or answered by an assumption; survives a crash. What
 * cannot change how much memory is taken is HARMLESS, and its text says why. */
enum journal_kind { NOT_MODELLED = 1, ASSUMED = 2, MEMORY = 3, HARMLESS = 4 };
struct journal_entry {
    const char *text;
    int kind;
    int slot; /* 0: none yet */
};
void vgpu_journal_count(struct journal_entry *entry);
void vgpu_journal_peak(int device, uint64_t used_bytes);
#define JOURNAL(kind_, text_)                                       \
    do {                                                            \
        static struct journal_entry entry_ = {(text_), (kind_), 0}; \
        vgpu_journal_count(&entry_);                                     \
    } while (0)

/* memory.c: device memory is host memory that is committed when first written. */
int vgpu_memory_allocate(void **address, size_t bytes, int device);
int vgpu_memory_free(void *address);
size_t vgpu_memory_used(int device);
size_t vgpu_memory_free_bytes(int device);
bool vgpu_memory_owns(const void *address);
bool vgpu_memory_owns_host(const void *address); /* pinned */
int vgpu_memory_device(const void *address);
bool vgpu_memory_block(const void *address, void **start, size_t *bytes);
void vgpu_memory_copy(void *to, const void *from, size_t bytes);
void vgpu_memory_fill(void *to, int value, size_t bytes);
int vgpu_memory_host_allocate(void **address, size_t bytes);
int vgpu_memory_host_free(void *address);
int vgpu_memory_take(size_t bytes, int device); /* without addresses: what a library keeps for itself */
void vgpu_memory_give_back(size_t bytes, int device);
/* Virtual addresses and physical memory apart (expandable segments). */
int vgpu_memory_reserve(void **address, size_t bytes, int device);
int vgpu_memory_unreserve(void *address, size_t bytes);
int vgpu_memory_create(uint64_t *handle, size_t bytes, int device);
int vgpu_memory_release(uint64_t handle);
int vgpu_memory_map(void *address, size_t bytes, uint64_t handle);
int vgpu_memory_unmap(void *address, size_t bytes);
/* events.c, where it is preloaded too: told after device memory has got an address, and before it loses it. */
enum memory_change { MEMORY_TAKEN = 5, MEMORY_GIVEN_BACK, MEMORY_MAPPED, MEMORY_UNMAPPED };
API __attribute__((weak)) void events_memory(int change, const void *address, size_t bytes, int device);

/* devices.c: the device of the calling thread; the last error of the calling thread. */
int vgpu_current_device(void);
int vgpu_set_current_device(int device);
int vgpu_failed(int error); /* remembers an error (not success) and gives it back */
int vgpu_last_error(bool reset);

/* streams.c */
void *vgpu_stream_create(int priority);
int vgpu_stream_destroy(void *stream);
int vgpu_stream_priority(const void *stream);
int vgpu_stream_device(const void *stream);
uint64_t vgpu_stream_capture(void *stream, void **graph); /* the capture's id, 0 where there is none */
int vgpu_stream_begin_capture(void *stream, void *graph);
int vgpu_stream_end_capture(void *stream, void **graph);
void vgpu_stream_wait_event(void *stream, void *event);
/* Wait for what a stream, an event or any stream waits for (pending.c): another process's part of a collective. */
int vgpu_settle(const void *stream);
int vgpu_settle_all(void);
int vgpu_wait_for_data(const void *stream); /* before a copy on the stream; no event ends by it */
int vgpu_event_settle(void *event);
bool vgpu_stream_waits(const void *stream);
bool vgpu_event_waits(void *event);
void *vgpu_event_create(void);
int vgpu_event_destroy(void *event);
void vgpu_event_record(void *event, void *stream);
float vgpu_event_elapsed_ms(const void *start, const void *end);
void *vgpu_new_handle(void); /* an opaque object of which nothing is read */

/* kernels.c: the kernels that the program registered. */
struct kernel_attributes {
    size_t shared_bytes;
    int registers;
    int max_threads_per_block;
    int binary_version;
};
void vgpu_kernel_register(const void *host_function, const char *name, const void *fat_binary);
/* A module loaded by the program, and a kernel of it; whether there is room. */
bool vgpu_module_load(void **module, const void *image);
bool vgpu_module_kernel(void **kernel, void *module, const char *name);
const char *vgpu_kernel_name(const void *host_function);
void vgpu_kernel_attributes(const void *host_function, struct kernel_attributes *attributes);
int vgpu_kernel_blocks_per_multiprocessor(const void *host_function, int threads, size_t dynamic_shared_bytes);

#endif
