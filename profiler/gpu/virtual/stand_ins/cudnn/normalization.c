/* cuDNN's old API: batch normalization.
 *
 * NCHW (per activation and spatial): no work space and no reserve, as recorded on a GPU with torch 2.6. Channels last
 * in training is the "persistent" mode, whose sizes cuDNN tells only to a handle: 0 is a lower bound.
 */
#include "cudnn.h"

enum { SPATIAL_PERSISTENT = 2 };

static int nothing(int mode, size_t *bytes) {
    if (!bytes) return CUDNN_BAD_PARAM;
    if (mode == SPATIAL_PERSISTENT) {
        JOURNAL(ASSUMED, "cuDNN's batch norm, channels last: no work space and no reserve (a lower bound)");
    }
    *bytes = 0;
    return CUDNN_SUCCESS;
}

API int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    void *handle, int mode, int operations, void *x, void *z, void *y, void *scale, void *activation, size_t *bytes) {
    (void)handle, (void)operations, (void)x, (void)z, (void)y, (void)scale, (void)activation;
    return nothing(mode, bytes);
}

API int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    void *handle, int mode, int operations, void *x, void *y, void *dy, void *dz, void *dx, void *scale,
    void *activation, size_t *bytes) {
    (void)handle, (void)operations, (void)x, (void)y, (void)dy, (void)dz, (void)dx, (void)scale, (void)activation;
    return nothing(mode, bytes);
}

API int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *handle, int mode, int operations,
                                                             void *activation, void *x, size_t *bytes) {
    (void)handle, (void)operations, (void)activation, (void)x;
    return nothing(mode, bytes);
}
