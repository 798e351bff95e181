/* cuBLASLt: every matrix product has one algorithm, without a workspace: PyTorch allocates the workspace
 * before it asks, of a size of its own. */
#include "common.h"

#include <string.h>

API size_t cublasLtGetVersion(void) { return CUDA_MAJOR == 12 ? 120400 : 130100; }
API size_t cublasLtGetCudartVersion(void) { return CUDA_MAJOR * 1000; }

static int create(void **object) {
    *object = vgpu_new_handle();
    return SUCCESS;
}

API int cublasLtCreate(void **handle) { return create(handle); }
API int cublasLtMatmulDescCreate(void **description) { return create(description); }
API int cublasLtMatrixLayoutCreate(void **layout) { return create(layout); }
API int cublasLtMatmulPreferenceCreate(void **preference) { return create(preference); }
API int cublasLtMatrixTransformDescCreate(void **description) { return create(description); }

/* cublasLtMatmulHeuristicResult_t */
struct heuristic {
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};
_Static_assert(sizeof(struct heuristic) == 96, "cublasLtMatmulHeuristicResult_t");

API int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                       int asked, struct heuristic *results, int *count) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
    if (asked < 1) return 7; /* CUBLAS_STATUS_INVALID_VALUE */
    memset(results, 0, (size_t)asked * sizeof *results);
    results[0].waves = 1;
    *count = 1;
    return SUCCESS;
}

API int cublasLtMatmulAlgoCheck(void *handle, void *operation, void *a, void *b, void *c, void *d, void *algorithm,
                                struct heuristic *result) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)algorithm;
    memset(result, 0, sizeof *result);
    result->waves = 1;
    return SUCCESS;
}

API int cublasLtMatmulAlgoGetIds(void *handle, int compute, int scale, int a, int b, int c, int d, int asked, int *ids,
                                 int *count) {
    (void)handle, (void)compute, (void)scale, (void)a, (void)b, (void)c, (void)d;
    if (asked > 0) ids[0] = 0;
    *count = asked > 0;
    return SUCCESS;
}

static int attribute(void *value, size_t bytes, size_t *written) {
    if (value) memset(value, 0, bytes);
    if (written) *written = bytes;
    return SUCCESS;
}

API int cublasLtMatmulAlgoConfigGetAttribute(const void *algorithm, int name, void *value, size_t bytes, size_t *written) {
    (void)algorithm, (void)name;
    return attribute(value, bytes, written);
}

API int cublasLtMatmulAlgoCapGetAttribute(const void *algorithm, int name, void *value, size_t bytes, size_t *written) {
    (void)algorithm, (void)name;
    return attribute(value, bytes, written);
}

API const char *cublasLtGetStatusName(int status) { return status ? "CUBLAS_STATUS_INTERNAL_ERROR" : "CUBLAS_STATUS_SUCCESS"; }
API const char *cublasLtGetStatusString(int status) { return status ? "internal error" : "success"; }
