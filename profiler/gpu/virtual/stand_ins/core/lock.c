/* One lock for all that the stand-ins keep, held over a fork so that the child finds it whole. */
#include "common.h"

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

static void start(void) {
    make();
    /* A recursive mutex knows its thread by number, which a fork changes. */
    pthread_atfork(vgpu_lock, vgpu_unlock, make);
}

void vgpu_in_each_child(void (*then)(void)) {
    pthread_once(&once, start); /* handlers of a child run in their order: the lock is its own by then */
    pthread_atfork(NULL, NULL, then);
}

API void vgpu_lock(void) {
    pthread_once(&once, start);
    pthread_mutex_lock(&lock);
}

API void vgpu_unlock(void) { pthread_mutex_unlock(&lock); }
