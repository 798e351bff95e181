/* cuDNN's graph API (cudnnBackend...): heuristics, engines and plans are cuDNN's own.
 *
 * PyTorch gives a handle to each operation graph and plan; cuDNN's deviceless compilation wants the described
 * device instead, in each heuristic and engine too. So handles are left away and the device is added. Plans then
 * have their real workspaces; executing one does nothing.
 *
 * An engine that compiles its kernels when a plan is made, as those of attention do, would take half a second for
 * each shape. What its configuration says of the workspace is what the plan would say, so the plan is left
 * unmade until something else is asked of it.
 *
 * Without a cuDNN that can do this, a graph has one engine, whose plan needs no workspace: a lower bound, said in
 * the journal (library.c).
 */
#include "cudnn.h"

#include <pthread.h>
#include <stdlib.h>

enum attribute {
    ENGINEHEUR_GRAPH = 201, ENGINEHEUR_RESULTS = 202, ENGINEHEUR_DEVICE = 204,
    CONFIG_ENGINE = 300, CONFIG_WORKSPACE = 303,
    PLAN_HANDLE = 400, PLAN_CONFIG = 401, PLAN_WORKSPACE = 402, PLAN_DEVICE = 407,
    GRAPH_HANDLE = 800, GRAPH_ENGINES = 802, ENGINE_GRAPH = 1300, ENGINE_INDEX = 1301, ENGINE_NOTES = 1305, ENGINE_DEVICE = 1307,
    DEVICE_ID = 2700, DEVICE_HANDLE = 2701, DEVICE_JSON = 2702,
};
enum { TYPE_INT64 = 3, TYPE_DESCRIPTOR = 15, TYPE_NOTE = 19, TYPE_CHAR = 24 };
enum { ENGINE_DESCRIPTOR = 2, RUNTIME_COMPILATION = 0, MOST_NOTES = 16 };

/* A plan that is left unmade. */
struct unmade {
    struct unmade *next;
    void *plan;
    int64_t workspace_bytes;
};

static struct unmade *all_unmade;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool compiles(const struct cudnn_library *cudnn, void *configuration) {
    void *engine;
    int notes[MOST_NOTES];
    int64_t count = 0;
    if (cudnn->create_descriptor(ENGINE_DESCRIPTOR, &engine)) return false;
    if (cudnn->get_attribute(configuration, CONFIG_ENGINE, TYPE_DESCRIPTOR, 1, &count, &engine) ||
        cudnn->get_attribute(engine, ENGINE_NOTES, TYPE_NOTE, MOST_NOTES, &count, notes)) {
        count = 0;
    }
    cudnn->destroy_descriptor(engine);
    for (int64_t i = 0; i < count && i < MOST_NOTES; i++) {
        if (notes[i] == RUNTIME_COMPILATION) return true;
    }
    return false;
}

/* The plan is to be made of that configuration. */
static void leave_unmade(const struct cudnn_library *cudnn, void *plan, void *configuration) {
    int64_t bytes, count;
    if (!compiles(cudnn, configuration)) return;
    if (cudnn->get_attribute(configuration, CONFIG_WORKSPACE, TYPE_INT64, 1, &count, &bytes)) return;
    struct unmade *entry = malloc(sizeof *entry);
    if (!entry) return;
    pthread_mutex_lock(&lock);
    *entry = (struct unmade){all_unmade, plan, bytes};
    all_unmade = entry;
    pthread_mutex_unlock(&lock);
}

/* Whether the plan is left unmade, and its workspace; with `take` it is so no longer. */
static bool is_unmade(void *plan, int64_t *workspace_bytes, bool take) {
    pthread_mutex_lock(&lock);
    struct unmade **place = &all_unmade;
    while (*place && (*place)->plan != plan) place = &(*place)->next;
    struct unmade *found = *place;
    if (found && workspace_bytes) *workspace_bytes = found->workspace_bytes;
    if (found && take) *place = found->next;
    pthread_mutex_unlock(&lock);
    if (found && take) free(found);
    return found != NULL;
}

API int cudnnBackendCreateDescriptor(int type, void **descriptor) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) return cudnn->create_descriptor(type, descriptor);
    return cudnn_new_descriptor(descriptor, 1);
}

API int cudnnBackendDestroyDescriptor(void *descriptor) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) {
        is_unmade(descriptor, NULL, true);
        return cudnn->destroy_descriptor(descriptor);
    }
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
    if (!status && name == PLAN_CONFIG && count == 1) leave_unmade(cudnn, descriptor, *(void *const *)values);
    int device = name == ENGINEHEUR_GRAPH ? ENGINEHEUR_DEVICE : name == ENGINE_GRAPH ? ENGINE_DEVICE : 0;
    if (status || !device) return status;
    return cudnn->set_attribute(descriptor, device, TYPE_DESCRIPTOR, 1, &cudnn->device);
}

API int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted, int64_t *count,
                                 void *values) {
    const struct cudnn_library *cudnn = cudnn_library();
    if (cudnn) {
        int64_t bytes;
        if (name == PLAN_WORKSPACE && values && wanted > 0 && is_unmade(descriptor, &bytes, false)) {
            *(int64_t *)values = bytes;
            if (count) *count = 1;
            return CUDNN_SUCCESS;
        }
        int status = is_unmade(descriptor, NULL, true) ? cudnn->finalize(descriptor) : CUDNN_SUCCESS;
        return status ? status : cudnn->get_attribute(descriptor, name, type, wanted, count, values);
    }
    bool number = name == GRAPH_ENGINES || name == ENGINE_INDEX || name == PLAN_WORKSPACE;
    if (number && values && wanted > 0) *(int64_t *)values = name == GRAPH_ENGINES;
    if (count) *count = number || name == ENGINEHEUR_RESULTS;
    return CUDNN_SUCCESS;
}

API int cudnnBackendFinalize(void *descriptor) {
    const struct cudnn_library *cudnn = cudnn_library();
    return cudnn && !is_unmade(descriptor, NULL, false) ? cudnn->finalize(descriptor) : CUDNN_SUCCESS;
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
