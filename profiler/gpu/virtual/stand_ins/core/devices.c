/* What CUDA keeps for each host thread: its device and its last error. */
#include "common.h"

static __thread int device;
static __thread int error;

API int vgpu_current_device(void) { return device; }

API int vgpu_set_current_device(int wanted) {
    if (wanted < 0 || wanted >= vgpu_card()->devices) return INVALID_DEVICE;
    device = wanted;
    return SUCCESS;
}

API int vgpu_failed(int result) {
    if (result != SUCCESS) error = result;
    return result;
}

API int vgpu_last_error(bool reset) {
    int result = error;
    if (reset) error = SUCCESS;
    return result;
}
