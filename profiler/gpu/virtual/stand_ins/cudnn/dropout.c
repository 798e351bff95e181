/* cuDNN's old API: dropout. PyTorch uses its states between the layers of a recurrent network. */
#include "cudnn.h"

#include <stdlib.h>

enum { STATE_BYTES = 48 }; /* curandState_t, of each thread that the card can hold */

API int cudnnCreateDropoutDescriptor(void **made) { return cudnn_new_descriptor(made, sizeof(struct cudnn_dropout)); }

API int cudnnDestroyDropoutDescriptor(void *gone) {
    free(gone);
    return CUDNN_SUCCESS;
}

API int cudnnDropoutGetStatesSize(void *handle, size_t *bytes) {
    (void)handle;
    if (!bytes) return CUDNN_BAD_PARAM;
    JOURNAL(ASSUMED, "cuDNN's dropout states: one generator for each thread that the card holds");
    const struct card *card = vgpu_card();
    *bytes = (size_t)STATE_BYTES * (size_t)card->multiprocessors * (size_t)card->threads_per_multiprocessor;
    return CUDNN_SUCCESS;
}

API int cudnnDropoutGetReserveSpaceSize(void *tensor, size_t *bytes) { /* a bit an element */
    const struct cudnn_tensor *of = tensor;
    if (!of || !bytes) return CUDNN_BAD_PARAM;
    JOURNAL(ASSUMED, "cuDNN's dropout mask: a bit an element");
    size_t elements = 1;
    for (int i = 0; i < of->dimensions; i++) elements *= (size_t)of->sizes[i];
    *bytes = (elements + 7) / 8;
    return CUDNN_SUCCESS;
}

API int cudnnSetDropoutDescriptor(void *described, void *handle, float probability, void *states, size_t bytes,
                                  unsigned long long seed) {
    (void)handle, (void)states, (void)bytes, (void)seed;
    if (!described) return CUDNN_BAD_PARAM;
    ((struct cudnn_dropout *)described)->probability = probability;
    return CUDNN_SUCCESS;
}

API int cudnnRestoreDropoutDescriptor(void *described, void *handle, float probability, void *states,
                                      size_t bytes, unsigned long long seed) {
    return cudnnSetDropoutDescriptor(described, handle, probability, states, bytes, seed);
}
