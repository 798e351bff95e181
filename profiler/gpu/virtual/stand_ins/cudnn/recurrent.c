/* cuDNN's old API: recurrent networks (nn.RNN, nn.LSTM, nn.GRU).
 *
 * The weight space is exact: every matrix, then every bias, without gaps; PyTorch checks each address.
 * Reserve and work space are rules, for cuDNN answers only with a handle. Where they come from and how far they
 * are confirmed: docs/virtual_gpu_cudnn.md.
 */
#include "cudnn.h"

#include <stdlib.h>

enum mode { RELU, TANH, LSTM, GRU };
enum bias { NO_BIAS, INPUT_BIAS, DOUBLE_BIAS, RECURRENT_BIAS };
enum { SKIP_INPUT = 1, TRAINING = 1, PLANE_ALIGNMENT = 64, SCRATCH_BYTES = 8 << 20 };

struct recurrent {
    enum mode mode;
    enum bias bias;
    int directions, input_mode, data_type, inputs, hidden, outputs, layers;
    float dropout;
};

struct sequence {
    int data_type, length, batch;
};

API int cudnnCreateRNNDescriptor(void **made) { return cudnn_new_descriptor(made, sizeof(struct recurrent)); }
API int cudnnCreateRNNDataDescriptor(void **made) { return cudnn_new_descriptor(made, sizeof(struct sequence)); }

API int cudnnDestroyRNNDescriptor(void *gone) {
    free(gone);
    return CUDNN_SUCCESS;
}

API int cudnnDestroyRNNDataDescriptor(void *gone) {
    free(gone);
    return CUDNN_SUCCESS;
}

API int cudnnSetRNNDescriptor_v8(void *described, int algorithm, int mode, int bias, int direction, int input_mode,
                                 int data_type, int computed_in, int math, int32_t inputs, int32_t hidden,
                                 int32_t outputs, int32_t layers, void *dropout, uint32_t flags) {
    (void)algorithm, (void)computed_in, (void)math, (void)flags;
    if (!described || mode < RELU || mode > GRU || hidden < 1 || layers < 1) return CUDNN_BAD_PARAM;
    const struct cudnn_dropout *between_layers = dropout;
    *(struct recurrent *)described = (struct recurrent){
        .mode = (enum mode)mode, .bias = (enum bias)bias, .directions = direction ? 2 : 1,
        .input_mode = input_mode, .data_type = data_type, .inputs = inputs, .hidden = hidden, .outputs = outputs,
        .layers = layers, .dropout = between_layers ? between_layers->probability : 0};
    return CUDNN_SUCCESS;
}

API int cudnnSetRNNDataDescriptor(void *described, int data_type, int layout, int length, int batch, int width,
                                  const int *lengths, void *padding) {
    (void)layout, (void)width, (void)lengths, (void)padding;
    if (!described || length < 1 || batch < 1) return CUDNN_BAD_PARAM;
    *(struct sequence *)described = (struct sequence){data_type, length, batch};
    return CUDNN_SUCCESS;
}

static int gates(const struct recurrent *of) { return of->mode == LSTM ? 4 : of->mode == GRU ? 3 : 1; }

static bool projected(const struct recurrent *of) { return of->outputs != of->hidden; }

/* Columns of the input's matrices: a layer above the first reads both directions of the one below. */
static int64_t width_of_input(const struct recurrent *of, int pseudo_layer) {
    if (pseudo_layer >= of->directions) return (int64_t)of->directions * of->outputs;
    return of->input_mode == SKIP_INPUT ? 0 : of->inputs;
}

static int64_t matrices(const struct recurrent *of, int pseudo_layer) {
    int64_t of_a_gate = (width_of_input(of, pseudo_layer) + of->outputs) * of->hidden;
    return gates(of) * of_a_gate + (projected(of) ? (int64_t)of->outputs * of->hidden : 0);
}

static int bias_vectors(const struct recurrent *of) {
    return gates(of) * (of->bias == NO_BIAS ? 0 : of->bias == DOUBLE_BIAS ? 2 : 1);
}

/* Elements of all matrices: where the biases begin. */
static int64_t all_matrices(const struct recurrent *of) {
    int64_t elements = 0;
    for (int i = 0; i < of->layers * of->directions; i++) elements += matrices(of, i);
    return elements;
}

API int cudnnGetRNNWeightSpaceSize(void *handle, void *described, size_t *bytes) {
    (void)handle;
    const struct recurrent *of = described;
    if (!of || !bytes) return CUDNN_BAD_PARAM;
    int64_t biases = (int64_t)of->layers * of->directions * bias_vectors(of) * of->hidden;
    *bytes = (size_t)(all_matrices(of) + biases) * cudnn_element_bytes(of->data_type);
    return CUDNN_SUCCESS;
}

static int part(const struct recurrent *of, void *tensor, void **address, const void *space, int64_t start,
                int64_t rows, int64_t columns) {
    if (address) *address = rows && columns ? (char *)(uintptr_t)space + start * (int64_t)cudnn_element_bytes(of->data_type) : NULL;
    struct cudnn_tensor *described = tensor;
    if (!described) return CUDNN_SUCCESS;
    *described = (struct cudnn_tensor){
        .data_type = of->data_type, .dimensions = rows && columns ? 3 : 0, .sizes = {1, (int)rows, (int)columns},
        .strides = {(int)(rows * columns), (int)columns, 1}};
    return CUDNN_SUCCESS;
}

/* linear_layer: the input's gates, then the recurrent ones, then (LSTM) the projection. */
API int cudnnGetRNNWeightParams(void *handle, void *described, int32_t pseudo_layer, size_t space_bytes,
                                const void *space, int32_t linear_layer, void *matrix, void **matrix_address,
                                void *bias, void **bias_address) {
    (void)handle, (void)space_bytes;
    const struct recurrent *of = described;
    if (!of || pseudo_layer < 0 || pseudo_layer >= of->layers * of->directions) return CUDNN_BAD_PARAM;
    int of_each = gates(of);
    if (linear_layer < 0 || linear_layer > 2 * of_each) return CUDNN_BAD_PARAM;
    int64_t start = 0, width = width_of_input(of, pseudo_layer), rows = of->hidden, columns;
    for (int i = 0; i < pseudo_layer; i++) start += matrices(of, i);
    if (linear_layer < of_each) {
        columns = width;
        start += linear_layer * rows * columns;
    } else {
        columns = of->outputs;
        start += of_each * rows * width + (linear_layer - of_each) * rows * columns;
    }
    if (linear_layer == 2 * of_each) {
        rows = projected(of) ? of->outputs : 0;
        columns = of->hidden;
    }
    part(of, matrix, matrix_address, space, start, rows, columns);

    int recurrent_gate = linear_layer >= of_each;
    bool exists = linear_layer < 2 * of_each && of->bias != NO_BIAS &&
                  (of->bias == DOUBLE_BIAS || of->bias == (recurrent_gate ? RECURRENT_BIAS : INPUT_BIAS));
    int place = of->bias == RECURRENT_BIAS ? linear_layer - of_each : linear_layer;
    int64_t first = all_matrices(of) + (int64_t)(pseudo_layer * bias_vectors(of) + place) * of->hidden;
    return part(of, bias, bias_address, space, first, exists ? of->hidden : 0, 1);
}

static size_t aligned(size_t bytes) { return (bytes + PLANE_ALIGNMENT - 1) / PLANE_ALIGNMENT * PLANE_ALIGNMENT; }

/* Planes of steps x batch x hidden, of each direction. A layer keeps its gates, its state (LSTM: the cell; GRU: the
 * parts of the new gate) and its output, but the last layer, whose output is the caller's. */
API int cudnnGetRNNTempSpaceSizes(void *handle, void *described, int phase, void *input, size_t *work_bytes,
                                  size_t *reserve_bytes) {
    (void)handle;
    const struct recurrent *of = described;
    const struct sequence *sequence = input;
    if (!of || !sequence) return CUDNN_BAD_PARAM;
    JOURNAL(ASSUMED, "cuDNN's recurrent layers: work and reserve space by a rule");
    size_t element = cudnn_element_bytes(of->data_type), layers = (size_t)of->layers;
    size_t plane = (size_t)sequence->length * (size_t)sequence->batch * (size_t)of->directions * (size_t)of->hidden * element;
    size_t kept = of->mode == LSTM ? 6 : of->mode == GRU ? 7 : 2;
    size_t dropped = of->dropout > 0 ? layers - 1 : 0;
    if (reserve_bytes) *reserve_bytes = phase == TRAINING ? (kept * layers - 1 + dropped) * aligned(plane) : 0;
    if (work_bytes) {
        *work_bytes = SCRATCH_BYTES + aligned((size_t)all_matrices(of) * element) + (of->directions == 2 ? 2 * plane : 0);
    }
    return CUDNN_SUCCESS;
}
