/* cuDNN: handles and versions. */
#include "cudnn.h"

#include <stdlib.h>

struct handle {
    void *stream;
};

API int cudnnCreate(void **handle) { return cudnn_new_descriptor(handle, sizeof(struct handle)); }

API int cudnnDestroy(void *handle) {
    free(handle);
    return CUDNN_SUCCESS;
}

API int cudnnSetStream(void *handle, void *stream) {
    if (!handle) return CUDNN_BAD_PARAM;
    ((struct handle *)handle)->stream = stream;
    return CUDNN_SUCCESS;
}

API int cudnnGetStream(void *handle, void **stream) {
    if (!handle || !stream) return CUDNN_BAD_PARAM;
    *stream = ((struct handle *)handle)->stream;
    return CUDNN_SUCCESS;
}

API size_t cudnnGetVersion(void) { return cudnn_version(); }

API size_t cudnnGetCudartVersion(void) { return CUDA_MAJOR * 1000; }

API size_t cudnnGetMaxDeviceVersion(void) { return 1210; }

API int cudnnGetProperty(int property, int *value) { /* libraryPropertyType: major, minor, patch */
    size_t version = cudnn_version();
    *value = (int)(property == 0 ? version / 10000 : property == 1 ? version / 100 % 100 : version % 100);
    return CUDNN_SUCCESS;
}

API int cudnnQueryRuntimeError(void *handle, int *status, int mode, void *tag) {
    (void)handle, (void)mode, (void)tag;
    if (status) *status = CUDNN_SUCCESS;
    return CUDNN_SUCCESS;
}
