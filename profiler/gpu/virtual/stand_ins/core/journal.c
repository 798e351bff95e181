/* The journal: a file per process, mapped into memory, so that a crash loses nothing.
 *
 * Layout: a header of one record, then records of 128 bytes; journal.py reads it. A forked child starts a
 * file of its own.
 */
#include "common.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RECORDS 8192
struct record {
    _Atomic uint64_t count; /* calls; the peak in bytes for MEMORY */
    int32_t kind;
    char text[116];
};
_Static_assert(sizeof(struct record) == 128, "journal.py reads records of 128 bytes");

static struct record *_Atomic records;
static bool unusable;
static _Atomic int next_slot = 1 + MAX_DEVICES; /* slot 0 is the header, then the peak of each device */

static void start_anew(void) {
    struct record *inherited = atomic_exchange(&records, NULL);
    if (inherited) munmap(inherited, RECORDS * sizeof(struct record));
    unusable = false;
}

static void tell_children(void) { vgpu_in_each_child(start_anew); }

static struct record *open_records(void) {
    static pthread_once_t told = PTHREAD_ONCE_INIT;
    struct record *open_already = atomic_load(&records);
    if (open_already || unusable) return open_already;
    pthread_once(&told, tell_children);
    vgpu_lock();
    if (!atomic_load(&records) && !unusable) {
        char path[4200];
        const char *folder = vgpu_card()->journal_folder;
        snprintf(path, sizeof path, "%s/%ld.journal", folder, (long)getpid());
        int file = *folder ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
        size_t bytes = RECORDS * sizeof(struct record);
        void *mapped = MAP_FAILED;
        if (file >= 0 && !ftruncate(file, (off_t)bytes)) {
            mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        }
        if (file >= 0) close(file);
        if (mapped == MAP_FAILED) {
            unusable = true;
        } else {
            struct record *fresh = mapped;
            memcpy(fresh[0].text, "virtual GPU journal 1", 22);
            atomic_store(&fresh[0].count, (uint64_t)getpid());
            atomic_store(&records, fresh);
        }
    }
    vgpu_unlock();
    return atomic_load(&records);
}

static void name(struct record *record, int kind, const char *text) {
    if (record->kind) return;
    size_t length = strnlen(text, sizeof record->text - 1);
    memcpy(record->text, text, length);
    record->kind = kind;
}

API void vgpu_journal_count(struct journal_entry *entry) {
    struct record *all = open_records();
    if (!all) return;
    int slot = __atomic_load_n(&entry->slot, __ATOMIC_ACQUIRE);
    if (!slot) {
        vgpu_lock();
        slot = entry->slot;
        if (!slot && next_slot < RECORDS) {
            slot = next_slot++;
            __atomic_store_n(&entry->slot, slot, __ATOMIC_RELEASE);
        }
        vgpu_unlock();
        if (!slot) return;
    }
    name(&all[slot], entry->kind, entry->text);
    atomic_fetch_add(&all[slot].count, 1);
}

API void vgpu_journal_peak(int device, uint64_t used_bytes) {
    struct record *all = open_records();
    if (!all) return;
    struct record *record = &all[1 + device];
    if (!record->kind) {
        char text[32];
        snprintf(text, sizeof text, "device %d", device);
        name(record, MEMORY, text);
    }
    uint64_t peak = atomic_load(&record->count);
    while (used_bytes > peak && !atomic_compare_exchange_weak(&record->count, &peak, used_bytes)) {
    }
}
