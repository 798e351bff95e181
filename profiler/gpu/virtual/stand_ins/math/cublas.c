/* cuBLAS: a handle and its modes. The computing functions do nothing: they take no memory but the handle's
 * workspace, which PyTorch sets itself. */
#include "common.h"

#include <stdlib.h>

struct handle {
    void *stream;
    int math_mode, pointer_mode, atomics_mode, multiprocessors;
};

API int cublasCreate_v2(struct handle **handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? SUCCESS : 3; /* CUBLAS_STATUS_ALLOC_FAILED */
}

API int cublasDestroy_v2(struct handle *handle) {
    free(handle);
    return SUCCESS;
}

API int cublasGetVersion_v2(struct handle *handle, int *version) {
    (void)handle;
    *version = CUDA_MAJOR == 12 ? 120400 : 130100;
    return SUCCESS;
}

API int cublasGetProperty(int property, int *value) {
    *value = property == 0 ? CUDA_MAJOR : 0;
    return SUCCESS;
}

#define MODE(name, field)                                          \
    API int cublasGet##name(struct handle *handle, int *value) {   \
        *value = handle->field;                                    \
        return SUCCESS;                                            \
    }                                                              \
    API int cublasSet##name(struct handle *handle, int value) {    \
        handle->field = value;                                     \
        return SUCCESS;                                            \
    }
MODE(MathMode, math_mode)
MODE(PointerMode_v2, pointer_mode)
MODE(AtomicsMode, atomics_mode)
MODE(SmCountTarget, multiprocessors)

API int cublasSetStream_v2(struct handle *handle, void *stream) {
    handle->stream = stream;
    return SUCCESS;
}

API int cublasGetStream_v2(struct handle *handle, void **stream) {
    *stream = handle->stream;
    return SUCCESS;
}

/* Factorizations of batches succeed: their info is 0. */
#define FACTORIZES(T)                                                                                          \
    API int cublas##T##getrfBatched(void *h, int n, void *a, int lda, void *pivots, int *info, int batch) {    \
        (void)h, (void)n, (void)a, (void)lda, (void)pivots;                                                    \
        vgpu_memory_fill(info, 0, (size_t)batch * sizeof *info);                                               \
        return SUCCESS;                                                                                        \
    }                                                                                                          \
    API int cublas##T##geqrfBatched(void *h, int m, int n, void *a, int lda, void *tau, int *info) {           \
        (void)h, (void)m, (void)n, (void)a, (void)lda, (void)tau;                                              \
        *info = 0;                                                                                             \
        return SUCCESS;                                                                                        \
    }                                                                                                          \
    API int cublas##T##getrsBatched(void *h, int op, int n, int columns, void *a, int lda, void *pivots,       \
                                    void *b, int ldb, int *info) {                                             \
        (void)h, (void)op, (void)n, (void)columns, (void)a, (void)lda, (void)pivots, (void)b, (void)ldb;       \
        *info = 0;                                                                                             \
        return SUCCESS;                                                                                        \
    }                                                                                                          \
    API int cublas##T##gelsBatched(void *h, int op, int m, int n, int columns, void *a, int lda, void *c,      \
                                   int ldc, int *info, int *device_info, int batch) {                          \
        (void)h, (void)op, (void)m, (void)n, (void)columns, (void)a, (void)lda, (void)c, (void)ldc;            \
        *info = 0;                                                                                             \
        if (device_info) vgpu_memory_fill(device_info, 0, (size_t)batch * sizeof *device_info);                \
        return SUCCESS;                                                                                        \
    }
FACTORIZES(S)
FACTORIZES(D)
FACTORIZES(C)
FACTORIZES(Z)

API const char *cublasGetStatusName(int status) { return status ? "CUBLAS_STATUS_INTERNAL_ERROR" : "CUBLAS_STATUS_SUCCESS"; }
API const char *cublasGetStatusString(int status) { return status ? "internal error" : "success"; }
