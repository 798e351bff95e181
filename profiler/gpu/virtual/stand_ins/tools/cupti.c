/* CUPTI: nothing runs on the card, so there is nothing to trace: no record ever comes. */
#include "common.h"

#include <time.h>

API int cuptiGetVersion(unsigned *version) {
    *version = CUDA_MAJOR == 12 ? 22 : 130000;
    return SUCCESS;
}

API int cuptiActivityGetNextRecord(void *buffer, size_t bytes, void **record) {
    (void)buffer, (void)bytes;
    *record = NULL;
    return 12; /* CUPTI_ERROR_MAX_LIMIT_REACHED: the end of a buffer */
}

API int cuptiActivityGetNumDroppedRecords(void *context, unsigned stream, size_t *dropped) {
    (void)context, (void)stream;
    *dropped = 0;
    return SUCCESS;
}

API int cuptiGetTimestamp(uint64_t *nanoseconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return SUCCESS;
}

API int cuptiGetDeviceId(void *context, unsigned *device) {
    (void)context;
    *device = (unsigned)vgpu_current_device();
    return SUCCESS;
}

API int cuptiSubscribe(void **subscriber) {
    *subscriber = vgpu_new_handle();
    return SUCCESS;
}

API int cuptiActivityPopExternalCorrelationId(int kind, uint64_t *last) {
    (void)kind;
    if (last) *last = 0;
    return SUCCESS;
}

API int cuptiGetResultString(int result, const char **text) {
    *text = result ? "CUPTI_ERROR_UNKNOWN" : "CUPTI_SUCCESS";
    return SUCCESS;
}

API int cuptiGetCallbackName(int domain, unsigned callback, const char **name) {
    (void)domain, (void)callback;
    *name = "unknown";
    return SUCCESS;
}
