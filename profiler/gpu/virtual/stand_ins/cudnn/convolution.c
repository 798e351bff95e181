/* cuDNN's old API: convolutions. PyTorch takes it only when it is told to (TORCH_CUDNN_V8_API_DISABLED=1); cuDNN
 * answers it only with a handle: one algorithm without work space, a lower bound. */
#include "cudnn.h"

struct performance { /* cudnnConvolution...AlgoPerf_t */
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

static int one_algorithm(int wanted, int *found, struct performance *results) {
    if (wanted < 1 || !found || !results) return CUDNN_BAD_PARAM;
    *results = (struct performance){.algorithm = 1, .determinism = 1};
    *found = 1;
    return CUDNN_SUCCESS;
}

#define ALGORITHM(kind_)                                                                                          \
    API int cudnnGetConvolution##kind_##Algorithm_v7(void *handle, void *a, void *b, void *c, void *d, int wanted, \
                                                     int *found, struct performance *results) {                   \
        (void)handle, (void)a, (void)b, (void)c, (void)d;                                                         \
        return one_algorithm(wanted, found, results);                                                             \
    }                                                                                                             \
    API int cudnnFindConvolution##kind_##AlgorithmEx(                                                             \
        void *handle, void *a, const void *in_a, void *b, const void *in_b, void *c, void *d, void *in_d,         \
        int wanted, int *found, struct performance *results, void *space, size_t bytes) {                         \
        (void)handle, (void)a, (void)in_a, (void)b, (void)in_b, (void)c, (void)d, (void)in_d;                     \
        (void)space, (void)bytes;                                                                                 \
        return one_algorithm(wanted, found, results);                                                             \
    }                                                                                                             \
    API int cudnnGetConvolution##kind_##WorkspaceSize(void *handle, void *a, void *b, void *c, void *d,           \
                                                      int algorithm, size_t *bytes) {                             \
        (void)handle, (void)a, (void)b, (void)c, (void)d, (void)algorithm;                                        \
        if (!bytes) return CUDNN_BAD_PARAM;                                                                       \
        JOURNAL(ASSUMED, "cuDNN's old convolution API: no work space (a lower bound)");                           \
        *bytes = 0;                                                                                               \
        return CUDNN_SUCCESS;                                                                                     \
    }
ALGORITHM(Forward)
ALGORITHM(BackwardData)
ALGORITHM(BackwardFilter)
