/* cuDNN's graph API (cudnnBackend...): heuristics, engines and plans are cuDNN's own.
 *
 * PyTorch gives a handle to each operation graph and plan; cuDNN's deviceless compilation wants the described
 * device instead, in each heuristic and engine too. So handles are left away and the device is added. Plans then
 * have their real workspaces; executing one does nothing.
 *
 * Without a cuDNN that can do this, a graph has one engine, whose plan needs no workspace: a lower bound, said in
 * the journal (library.c).
 */
#include "cudnn.h"

#include <stdlib.h>

enum attribute {
    ENGINEHEUR_GRAPH = 201, ENGINEHEUR_RESULTS = 202, ENGINEHEUR_DEVICE = 204,
    PLAN_HANDLE = 400, PLAN_WORKSPACE = 402, PLAN_DEVICE = 407,
    GRAPH_HANDLE = 800, GRAPH_ENGINES = 802, ENGINE_GRAPH = 1300, ENGINE_INDEX = 1301, ENGINE_DEVICE = 1307,
    DEVICE_ID = 2700, DEVICE_HANDLE = 2701, DEVICE_JSON = 2702,
};
enum { TYPE_DESCRIPTOR = 15, TYPE_CHAR = 24 };

API int cudnnBackendCreateDescriptor(int type, void **descriptor) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) return cudnn->create_descriptor(type, descriptor);
    return cudnn_new_descriptor(descriptor, 1);
}

API int cudnnBackendDestroyDescriptor(void *descriptor) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) return cudnn->destroy_descriptor(descriptor);
    free(descriptor);
    return CUDNN_SUCCESS;
}

API int cudnnBackendInitialize(void *descriptor) {
    (void)descriptor;
    return CUDNN_SUCCESS;
}

API int cudnnBackendSetAttribute(void *descriptor, int name, int type, int64_t count, const void *values) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (!cudnn) return CUDNN_SUCCESS;
    switch (name) {
    case GRAPH_HANDLE: return CUDNN_SUCCESS;
    case PLAN_HANDLE: return cudnn->set_attribute(descriptor, PLAN_DEVICE, TYPE_DESCRIPTOR, 1, &cudnn->device);
    case DEVICE_ID:
    case DEVICE_HANDLE: {
        char text[2048];
        size_t length = cudnn_device_text(text, sizeof text);
        return cudnn->set_attribute(descriptor, DEVICE_JSON, TYPE_CHAR, (int64_t)length, text);
    }
    default: break;
    }
    int status = cudnn->set_attribute(descriptor, name, type, count, values);
    int device = name == ENGINEHEUR_GRAPH ? ENGINEHEUR_DEVICE : name == ENGINE_GRAPH ? ENGINE_DEVICE : 0;
    if (status || !device) return status;
    return cudnn->set_attribute(descriptor, device, TYPE_DESCRIPTOR, 1, &cudnn->device);
}

API int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted, int64_t *count,
                                 void *values) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) return cudnn->get_attribute(descriptor, name, type, wanted, count, values);
    bool number = name == GRAPH_ENGINES || name == ENGINE_INDEX || name == PLAN_WORKSPACE;
    if (number && values && wanted > 0) *(int64_t *)values = name == GRAPH_ENGINES;
    if (count) *count = number || name == ENGINEHEUR_RESULTS;
    return CUDNN_SUCCESS;
}

API int cudnnBackendFinalize(void *descriptor) {
    const struct cudnn_library *cudnn = cudnn_library();
    return cudnn ? cudnn->finalize(descriptor) : CUDNN_SUCCESS;
}

API int cudnnBackendExecute(void *handle, void *plan, void *variant_pack) {
    (void)handle, (void)plan, (void)variant_pack;
    return CUDNN_SUCCESS;
}

API const char *cudnnGetErrorString(int status) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) return cudnn->error_text(status);
    return status ? "CUDNN_STATUS_BAD_PARAM" : "CUDNN_STATUS_SUCCESS";
}

API void cudnnGetLastErrorString(char *text, size_t bytes) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) {
        cudnn->last_error_text(text, bytes);
    } else if (text && bytes) {
        *text = 0;
    }
}
