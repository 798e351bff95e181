/* cuDNN's old API: descriptors. They hold what they are told; recurrent.c and ctc.c read them. */
#include "cudnn.h"

#include <stdlib.h>
#include <string.h>

int cudnn_new_descriptor(void **descriptor, size_t bytes) {
    if (!descriptor) return CUDNN_BAD_PARAM;
    *descriptor = calloc(1, bytes);
    return *descriptor ? CUDNN_SUCCESS : CUDNN_HOST_ALLOCATION_FAILED;
}

size_t cudnn_element_bytes(int data_type) { /* cudnnDataType_t */
    switch (data_type) {
    case 1: case 10: return 8;                   /* double, int64 */
    case 2: case 9: return 2;                    /* half, bfloat16 */
    case 3: case 6: case 11: case 12: case 13: return 1; /* int8, uint8, boolean, fp8 */
    default: return 4;
    }
}

#define DESCRIPTOR(kind_, bytes_)                                                             \
    API int cudnnCreate##kind_(void **made) { return cudnn_new_descriptor(made, (bytes_)); } \
    API int cudnnDestroy##kind_(void *gone) {                                                 \
        free(gone);                                                                           \
        return CUDNN_SUCCESS;                                                                 \
    }
DESCRIPTOR(TensorDescriptor, sizeof(struct cudnn_tensor))
DESCRIPTOR(FilterDescriptor, sizeof(struct cudnn_tensor))
/* Nothing is read of these. */
DESCRIPTOR(ActivationDescriptor, 1)
DESCRIPTOR(ConvolutionDescriptor, 1)
DESCRIPTOR(LRNDescriptor, 1)
DESCRIPTOR(OpTensorDescriptor, 1)
DESCRIPTOR(PoolingDescriptor, 1)
DESCRIPTOR(ReduceTensorDescriptor, 1)
DESCRIPTOR(SpatialTransformerDescriptor, 1)

static int set_sizes(struct cudnn_tensor *tensor, int data_type, int count, const int *sizes,
                     const int *strides) {
    if (!tensor || !sizes || count < 1 || count > CUDNN_MAX_DIMENSIONS) return CUDNN_BAD_PARAM;
    tensor->data_type = data_type;
    tensor->dimensions = count;
    for (int i = count - 1, packed = 1; i >= 0; packed *= sizes[i--]) {
        tensor->sizes[i] = sizes[i];
        tensor->strides[i] = strides ? strides[i] : packed;
    }
    return CUDNN_SUCCESS;
}

API int cudnnSetTensorNdDescriptor(void *tensor, int data_type, int count, const int *sizes, const int *strides) {
    return set_sizes(tensor, data_type, count, sizes, strides);
}

API int cudnnSetTensorNdDescriptorEx(void *tensor, int format, int data_type, int count, const int *sizes) {
    (void)format;
    return set_sizes(tensor, data_type, count, sizes, NULL);
}

API int cudnnSetTensor4dDescriptor(void *tensor, int format, int data_type, int n, int c, int h, int w) {
    (void)format;
    return set_sizes(tensor, data_type, 4, (const int[]){n, c, h, w}, NULL);
}

API int cudnnSetFilterNdDescriptor(void *filter, int data_type, int format, int count, const int *sizes) {
    int status = set_sizes(filter, data_type, count, sizes, NULL);
    if (!status) ((struct cudnn_tensor *)filter)->format = format;
    return status;
}

API int cudnnSetFilter4dDescriptor(void *filter, int data_type, int format, int k, int c, int h, int w) {
    return cudnnSetFilterNdDescriptor(filter, data_type, format, 4, (const int[]){k, c, h, w});
}

static int get_sizes(const struct cudnn_tensor *tensor, int wanted, int *data_type, int *count, int *sizes,
                     int *strides) {
    if (!tensor || wanted < 0) return CUDNN_BAD_PARAM;
    size_t bytes = sizeof(int) * (size_t)(wanted < tensor->dimensions ? wanted : tensor->dimensions);
    if (data_type) *data_type = tensor->data_type;
    if (count) *count = tensor->dimensions;
    if (sizes) memcpy(sizes, tensor->sizes, bytes);
    if (strides) memcpy(strides, tensor->strides, bytes);
    return CUDNN_SUCCESS;
}

API int cudnnGetTensorNdDescriptor(void *tensor, int wanted, int *data_type, int *count, int *sizes,
                                   int *strides) {
    return get_sizes(tensor, wanted, data_type, count, sizes, strides);
}

API int cudnnGetFilterNdDescriptor(void *filter, int wanted, int *data_type, int *format, int *count, int *sizes) {
    if (filter && format) *format = ((const struct cudnn_tensor *)filter)->format;
    return get_sizes(filter, wanted, data_type, count, sizes, NULL);
}
