/* What the parts of the cuDNN stand-in share. The values are those of cuDNN 9's documentation. */
#ifndef VIRTUAL_GPU_CUDNN_H
#define VIRTUAL_GPU_CUDNN_H

#include "../common.h"

enum cudnn_status { CUDNN_SUCCESS = 0, CUDNN_BAD_PARAM = 2000, CUDNN_HOST_ALLOCATION_FAILED = 4003 };
enum { CUDNN_MAX_DIMENSIONS = 8 };

/* library.c: the cuDNN that is installed, where it can plan without a device. */
struct cudnn_library {
    int (*create_descriptor)(int type, void **descriptor);
    int (*destroy_descriptor)(void *descriptor);
    int (*set_attribute)(void *descriptor, int name, int type, int64_t count, const void *values);
    int (*get_attribute)(void *descriptor, int name, int type, int64_t wanted, int64_t *count, void *values);
    int (*finalize)(void *descriptor);
    const char *(*error_text)(int status);
    void (*last_error_text)(char *text, size_t bytes);
    void *device; /* a CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR: the card */
};
const struct cudnn_library *cudnn_library(void); /* NULL: none that plans without a device */
size_t cudnn_version(void);

/* device.c: the card as the text that CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION takes; its length. */
size_t cudnn_device_text(char *text, size_t bytes);

/* descriptors.c */
struct cudnn_tensor {
    int data_type, dimensions;
    int sizes[CUDNN_MAX_DIMENSIONS], strides[CUDNN_MAX_DIMENSIONS];
    int format; /* of a filter */
};
size_t cudnn_element_bytes(int data_type);
int cudnn_new_descriptor(void **descriptor, size_t bytes);

/* dropout.c */
struct cudnn_dropout {
    float probability;
};

#endif
