/* cuDNN's old API: the CTC loss. Its work space is a rule: the forward and the backward variables of each step,
 * sequence and place of the labels with blanks between them, in 32 bits; cuDNN tells it only to a handle. */
#include "cudnn.h"

#include <stdlib.h>

struct ctc {
    int longest_label;
};

API int cudnnCreateCTCLossDescriptor(void **made) { return cudnn_new_descriptor(made, sizeof(struct ctc)); }

API int cudnnDestroyCTCLossDescriptor(void *gone) {
    free(gone);
    return CUDNN_SUCCESS;
}

API int cudnnSetCTCLossDescriptor(void *described, int computed_in) {
    (void)computed_in;
    return described ? CUDNN_SUCCESS : CUDNN_BAD_PARAM;
}

API int cudnnSetCTCLossDescriptorEx(void *described, int computed_in, int normalization, int nan) {
    (void)normalization, (void)nan;
    return cudnnSetCTCLossDescriptor(described, computed_in);
}

API int cudnnSetCTCLossDescriptor_v8(void *described, int computed_in, int normalization, int nan,
                                     int longest_label) {
    (void)computed_in, (void)normalization, (void)nan;
    if (!described) return CUDNN_BAD_PARAM;
    ((struct ctc *)described)->longest_label = longest_label;
    return CUDNN_SUCCESS;
}

API int cudnnSetCTCLossDescriptor_v9(void *described, int computed_in, int normalization, int gradients,
                                     int longest_label) {
    return cudnnSetCTCLossDescriptor_v8(described, computed_in, normalization, gradients, longest_label);
}

static int variables(const struct cudnn_tensor *probabilities, int longest_label, size_t *bytes) {
    if (!probabilities || !bytes || probabilities->dimensions < 2) return CUDNN_BAD_PARAM;
    JOURNAL(ASSUMED, "cuDNN's CTC loss: work space by a rule");
    size_t steps = (size_t)probabilities->sizes[0], batch = (size_t)probabilities->sizes[1];
    *bytes = 2 * steps * batch * (2 * (size_t)longest_label + 1) * sizeof(float);
    return CUDNN_SUCCESS;
}

API int cudnnGetCTCLossWorkspaceSize(void *handle, void *probabilities, void *gradients, const int *labels,
                                     const int *label_lengths, const int *input_lengths, int algorithm,
                                     void *described, size_t *bytes) {
    (void)handle, (void)gradients, (void)labels, (void)input_lengths, (void)algorithm, (void)described;
    const struct cudnn_tensor *of = probabilities;
    int longest = 0;
    for (int i = 0; of && label_lengths && i < of->sizes[1]; i++) {
        if (label_lengths[i] > longest) longest = label_lengths[i];
    }
    return variables(of, longest, bytes);
}

API int cudnnGetCTCLossWorkspaceSize_v8(void *handle, int algorithm, void *described, void *probabilities,
                                        void *gradients, size_t *bytes) {
    (void)handle, (void)algorithm, (void)gradients;
    return described ? variables(probabilities, ((struct ctc *)described)->longest_label, bytes) : CUDNN_BAD_PARAM;
}
