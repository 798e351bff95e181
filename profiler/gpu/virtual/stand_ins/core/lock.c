/* One lock for all that the stand-ins keep, held over a fork so that the child finds it whole. */
#include "common.h"
#include "streams/pending.h"

#include <pthread.h>

static pthread_mutex_t lock;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make(void) {
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
}

/* A recursive mutex knows its thread by number, which a fork changes. */
static void in_child(void) {
    make();
    vgpu_journal_after_fork();
    vgpu_pending_after_fork();
}

static void start(void) {
    make();
    pthread_atfork(vgpu_lock, vgpu_unlock, in_child);
}

API void vgpu_lock(void) {
    pthread_once(&once, start);
    pthread_mutex_lock(&lock);
}

API void vgpu_unlock(void) { pthread_mutex_unlock(&lock); }
