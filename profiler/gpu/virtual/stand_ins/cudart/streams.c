/* CUDA runtime: streams, events, captures and graphs. */
#include "common.h"

API int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    (void)flags;
    *stream = vgpu_stream_create(priority < -5 ? -5 : priority > 0 ? 0 : priority);
    return vgpu_failed(*stream ? SUCCESS : OUT_OF_MEMORY);
}

API int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreateWithPriority(stream, flags, 0); }

API int cudaStreamCreate(void **stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

API int cudaStreamDestroy(void *stream) { return vgpu_failed(vgpu_stream_destroy(stream)); }

API int cudaStreamGetPriority(void *stream, int *priority) {
    *priority = vgpu_stream_priority(stream);
    return SUCCESS;
}

API int cudaStreamGetFlags(void *stream, unsigned *flags) {
    *flags = stream ? 1 : 0;
    return SUCCESS;
}

API int cudaStreamGetDevice(void *stream, int *device) {
    *device = vgpu_stream_device(stream);
    return SUCCESS;
}

API int cudaStreamSynchronize(void *stream) { return vgpu_failed(vgpu_settle(stream)); }

API int cudaStreamQuery(void *stream) { return vgpu_stream_waits(stream) ? vgpu_failed(NOT_READY) : SUCCESS; }

API int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)flags;
    vgpu_stream_wait_event(stream, event);
    return SUCCESS;
}

API int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) {
    if (!vgpu_stream_capture(stream, NULL)) function(data);
    return SUCCESS;
}

API int cudaStreamAddCallback(void *stream, void (*function)(void *, int, void *), void *data, unsigned flags) {
    (void)flags;
    function(stream, SUCCESS, data);
    return SUCCESS;
}

API int cudaEventCreateWithFlags(void **event, unsigned flags) {
    (void)flags;
    *event = vgpu_event_create();
    return vgpu_failed(*event ? SUCCESS : OUT_OF_MEMORY);
}

API int cudaEventCreate(void **event) { return cudaEventCreateWithFlags(event, 0); }

API int cudaEventDestroy(void *event) { return vgpu_event_destroy(event); }

API int cudaEventRecord(void *event, void *stream) {
    vgpu_event_record(event, stream);
    return SUCCESS;
}

API int cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) {
    (void)flags;
    return cudaEventRecord(event, stream);
}

API int cudaEventQuery(void *event) { return vgpu_event_waits(event) ? vgpu_failed(NOT_READY) : SUCCESS; }

API int cudaEventSynchronize(void *event) { return vgpu_failed(vgpu_event_settle(event)); }

API int cudaEventElapsedTime(float *milliseconds, void *start, void *end) {
    *milliseconds = vgpu_event_elapsed_ms(start, end);
    return SUCCESS;
}

API int cudaEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    return cudaEventElapsedTime(milliseconds, start, end);
}

API int cudaIpcGetEventHandle(void *handle, void *event) {
    (void)event;
    for (int i = 0; i < 64; i++) ((char *)handle)[i] = 0;
    return SUCCESS;
}

/* A captured graph is not kept: launching it changes no memory. */
API int cudaStreamIsCapturing(void *stream, int *status) {
    *status = vgpu_stream_capture(stream, NULL) ? 1 : 0;
    return SUCCESS;
}

API int cudaStreamBeginCapture(void *stream, int mode) {
    (void)mode;
    return vgpu_failed(vgpu_stream_begin_capture(stream, NULL));
}

API int cudaStreamBeginCaptureToGraph(void *stream, void *graph, const void *dependencies, const void *data,
                                      size_t count, int mode) {
    (void)dependencies, (void)data, (void)count, (void)mode;
    return vgpu_failed(vgpu_stream_begin_capture(stream, graph));
}

API int cudaStreamEndCapture(void *stream, void **graph) { return vgpu_failed(vgpu_stream_end_capture(stream, graph)); }

static int capture_info(void *stream, int *status, unsigned long long *id, void **graph, void ***dependencies,
                        size_t *count) {
    void *of = NULL;
    uint64_t capture = vgpu_stream_capture(stream, &of);
    *status = capture ? 1 : 0;
    if (id) *id = capture;
    if (graph) *graph = of;
    if (dependencies) *dependencies = NULL;
    if (count) *count = 0;
    return SUCCESS;
}

API int cudaStreamGetCaptureInfo_v2(void *stream, int *status, unsigned long long *id, void **graph,
                                    void ***dependencies, size_t *count) {
    return capture_info(stream, status, id, graph, dependencies, count);
}

API int cudaStreamGetCaptureInfo_v3(void *stream, int *status, unsigned long long *id, void **graph,
                                    void ***dependencies, const void **edges, size_t *count) {
    if (edges) *edges = NULL;
    return capture_info(stream, status, id, graph, dependencies, count);
}

#if CUDA_MAJOR == 12
API int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id) {
    return capture_info(stream, status, id, NULL, NULL, NULL);
}
#else
API int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id, void **graph,
                                 void ***dependencies, const void **edges, size_t *count) {
    return cudaStreamGetCaptureInfo_v3(stream, status, id, graph, dependencies, edges, count);
}
#endif

API int cudaThreadExchangeStreamCaptureMode(int *mode) {
    static __thread int current;
    int old = current;
    current = *mode;
    *mode = old;
    return SUCCESS;
}

API int cudaStreamUpdateCaptureDependencies(void) { return SUCCESS; }

API int cudaGraphCreate(void **graph, unsigned flags) {
    (void)flags;
    *graph = vgpu_new_handle();
    return SUCCESS;
}

API int cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
    (void)graph, (void)flags;
    *executable = vgpu_new_handle();
    return SUCCESS;
}

API int cudaGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    return cudaGraphInstantiate(executable, graph, flags);
}

/* One node, so that nobody takes the graph for empty. */
API int cudaGraphGetNodes(void *graph, void **nodes, size_t *count) {
    (void)graph;
    if (nodes && *count) nodes[0] = vgpu_new_handle();
    *count = 1;
    return SUCCESS;
}

API int cudaGraphNodeGetDependencies(void *node, void **dependencies, void *edges, size_t *count) {
    (void)node, (void)dependencies, (void)edges;
    *count = 0;
    return SUCCESS;
}

API int cudaGraphAddNode(void **node) {
    *node = vgpu_new_handle();
    return SUCCESS;
}

API int cudaGraphConditionalHandleCreate(uint64_t *handle) {
    *handle = (uint64_t)(uintptr_t)vgpu_new_handle();
    return SUCCESS;
}

API int cudaGraphLaunch(void *executable, void *stream) {
    (void)executable, (void)stream;
    return SUCCESS;
}

API int cudaGraphDestroy(void *graph) {
    (void)graph;
    return SUCCESS;
}

API int cudaGraphExecDestroy(void *executable) {
    (void)executable;
    return SUCCESS;
}

API int cudaUserObjectCreate(void **object, void *pointer, void (*destroy)(void *), unsigned references, unsigned flags) {
    (void)pointer, (void)destroy, (void)references, (void)flags;
    *object = vgpu_new_handle();
    return SUCCESS;
}

API int cudaUserObjectRelease(void *object, unsigned count) {
    (void)object, (void)count;
    return SUCCESS;
}

API int cudaGraphRetainUserObject(void *graph, void *object, unsigned count, unsigned flags) {
    (void)graph, (void)object, (void)count, (void)flags;
    return SUCCESS;
}
