/* What device memory holds: copies and fills that commit no page for nothing.
 *
 * A page that was never written reads as zero, so copying it, or filling it with zero, needs no memory.
 * Large copies from the host's own memory are left away: they read as zero.
 */
#include "common.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LARGE (4 * MIB)
#define AT_ONCE ((size_t)1024) /* pages asked about by one call */

static size_t page_bytes(void) {
    static size_t bytes;
    if (!bytes) bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

static char *page_of(const void *address) {
    return (char *)((uintptr_t)address / page_bytes() * page_bytes());
}

static bool written(const void *address) {
    unsigned char there = 1;
    return mincore(page_of(address), page_bytes(), &there) || (there & 1);
}

/* Zero the bytes: whole pages are given back, parts of a page written only where the page is there. */
static void zero(char *to, size_t bytes) {
    size_t page = page_bytes();
    char *end = to + bytes;
    char *first = page_of(to + page - 1), *last = page_of(end);
    if (first >= last) {
        while (to < end) {
            char *stop = page_of(to) + page < end ? page_of(to) + page : end;
            if (written(to)) memset(to, 0, (size_t)(stop - to));
            to = stop;
        }
        return;
    }
    if (to < first && written(to)) memset(to, 0, (size_t)(first - to));
    madvise(first, (size_t)(last - first), MADV_DONTNEED);
    if (last < end && written(last)) memset(last, 0, (size_t)(end - last));
}

API void vgpu_memory_fill(void *to, int value, size_t bytes) {
    if (!bytes) return;
    if (!vgpu_memory_owns(to) || (value && bytes <= LARGE)) {
        memset(to, value, bytes);
    } else {
        if (value) JOURNAL(HARMLESS, "a fill of more than 4 MiB with other than zero reads as zero: reads are named");
        zero(to, bytes);
    }
}

/* Copy the pages of the source that were written; the others are zero. */
static void copy_written(char *to, const char *from, size_t bytes) {
    size_t page = page_bytes();
    unsigned char there[AT_ONCE];
    const char *end = from + bytes;
    while (from < end) {
        const char *start = page_of(from);
        size_t pages = (size_t)(end - start + (ptrdiff_t)page - 1) / page;
        if (pages > AT_ONCE) pages = AT_ONCE;
        if (mincore((void *)(uintptr_t)start, pages * page, there)) memset(there, 1, pages);
        for (size_t i = 0; i < pages;) { /* runs of pages of one kind */
            size_t run = i + 1;
            while (run < pages && (there[run] & 1) == (there[i] & 1)) run++;
            const char *stop = start + run * page < end ? start + run * page : end;
            size_t length = (size_t)(stop - from);
            if (there[i] & 1) {
                memmove(to, from, length);
            } else {
                zero(to, length);
            }
            to += length;
            from = stop;
            i = run;
        }
    }
}

static bool lazy(const void *address) { return vgpu_memory_owns(address) || vgpu_memory_owns_host(address); }

/* A number that the host is about to read back, said by the program's side (values/answers.py): kernels that
 * count do not run, and what they count decides the size of a result. Of this thread alone. */
static _Thread_local struct {
    bool waiting;
    int64_t value;
} answer;

API void vgpu_memory_answer(int waiting, int64_t value) {
    answer.waiting = waiting != 0;
    answer.value = value;
}

/* Whether the copy reads one number back and its answer is known. */
static bool answered(void *to, const void *from, size_t bytes) {
    if (!answer.waiting || vgpu_memory_owns(to) || !vgpu_memory_owns(from)) return false;
    if (bytes != sizeof(int8_t) && bytes != sizeof(int32_t) && bytes != sizeof(int64_t)) return false;
    answer.waiting = false;
    memcpy(to, &answer.value, bytes); /* little-endian, as every host of a GPU */
    return true;
}

API void vgpu_memory_copy(void *to, const void *from, size_t bytes) {
    if (!bytes || to == from || answered(to, from, bytes)) return;
    if (!lazy(to)) {
        memcpy(to, from, bytes);
    } else if (lazy(from)) {
        copy_written(to, from, bytes);
    } else if (bytes <= LARGE) {
        memcpy(to, from, bytes);
    } else {
        JOURNAL(HARMLESS, "a copy of more than 4 MiB from the host reads as zero: reads are named");
        zero(to, bytes);
    }
}
