/* Asks cuDNN itself, without PyTorch and without a GPU, for the workspaces of a convolution's plans.
 *
 *   cudnn_plan_workspaces LIBCUDNN DEVICE.json OPERATION TYPE LAYOUT GROUPS INPUT WEIGHT PADDING STRIDE
 *
 * OPERATION: forward, data or filter. TYPE: float, half or bfloat16. LAYOUT: channels_first or channels_last.
 * INPUT, WEIGHT, PADDING, STRIDE: sizes with commas between, as PyTorch has them (32,64,56,56).
 * Prints a line a plan that can be built, in the order of cuDNN's heuristic: its workspace in bytes, and what its
 * engine's configuration said of that before.
 * Prototypes and enumerators are those of cuDNN's documentation (backend API); no header is needed. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_DATA_TYPE = 1, TYPE_INT64 = 3, TYPE_FLOAT = 4, TYPE_CONVOLUTION_MODE = 7, TYPE_HEUR_MODE = 8,
       TYPE_DESCRIPTOR = 15, TYPE_CHAR = 24 };
enum { CONVOLUTION = 1, ENGINE_CONFIG = 3, HEURISTIC = 4, PLAN = 5, FORWARD = 10, FILTER = 11, DATA = 12, GRAPH = 15,
       TENSOR = 17, DEVICE = 38, MAX_DIMENSIONS = 5, MAX_CONFIGS = 256 };

typedef void *Descriptor;
static int (*create)(int, Descriptor *);
static int (*set)(Descriptor, int, int, int64_t, const void *);
static int (*get)(Descriptor, int, int, int64_t, int64_t *, void *);
static int (*finalize)(Descriptor);

static void check(int status, const char *what) {
    if (status != 0) {
        fprintf(stderr, "%s: status %d\n", what, status);
        exit(1);
    }
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    check(found == NULL, name);
    return found;
}

static Descriptor make(int type) {
    Descriptor descriptor;
    check(create(type, &descriptor), "create");
    return descriptor;
}

static int parse(const char *text, int64_t *sizes) {
    int count = 0;
    for (char *end; count < MAX_DIMENSIONS; text = end + 1) {
        sizes[count++] = strtoll(text, &end, 10);
        if (*end == '\0') break;
    }
    return count;
}

static Descriptor tensor(int64_t name, const int64_t *sizes, int count, int type, int last) {
    int64_t strides[MAX_DIMENSIONS], alignment = 16, stride = last ? sizes[1] : 1;
    for (int i = count - 1; i >= (last ? 2 : 0); stride *= sizes[i--]) strides[i] = stride;
    if (last) { strides[1] = 1; strides[0] = stride; }
    Descriptor made = make(TENSOR);
    check(set(made, 901, TYPE_DATA_TYPE, 1, &type), "tensor type");
    check(set(made, 902, TYPE_INT64, count, sizes), "tensor sizes");
    check(set(made, 903, TYPE_INT64, count, strides), "tensor strides");
    check(set(made, 906, TYPE_INT64, 1, &name), "tensor name");
    check(set(made, 900, TYPE_INT64, 1, &alignment), "tensor alignment");
    check(finalize(made), "tensor");
    return made;
}

static Descriptor convolution(int64_t dimensions, const int64_t *padding, const int64_t *stride) {
    int64_t ones[MAX_DIMENSIONS] = {1, 1, 1, 1, 1};
    int computed_in = 0, cross_correlation = 1;
    Descriptor made = make(CONVOLUTION);
    check(set(made, 100, TYPE_DATA_TYPE, 1, &computed_in), "compute type");
    check(set(made, 101, TYPE_CONVOLUTION_MODE, 1, &cross_correlation), "mode");
    check(set(made, 102, TYPE_INT64, dimensions, ones), "dilation");
    check(set(made, 103, TYPE_INT64, dimensions, stride), "stride");
    check(set(made, 104, TYPE_INT64, dimensions, padding), "padding after");
    check(set(made, 105, TYPE_INT64, dimensions, padding), "padding before");
    check(set(made, 106, TYPE_INT64, 1, &dimensions), "dimensions");
    check(finalize(made), "convolution");
    return made;
}

static Descriptor device(const char *path) {
    static char json[1 << 16];
    FILE *file = fopen(path, "r");
    check(file == NULL, path);
    size_t length = fread(json, 1, sizeof json, file);
    fclose(file);
    Descriptor made = make(DEVICE);
    check(set(made, 2702, TYPE_CHAR, (int64_t)length, json), "device text");
    check(finalize(made), "device");
    return made;
}

int main(int argc, char **argv) {
    check(argc != 11, "ten arguments");
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    *(void **)&create = symbol(library, "cudnnBackendCreateDescriptor");
    *(void **)&set = symbol(library, "cudnnBackendSetAttribute");
    *(void **)&get = symbol(library, "cudnnBackendGetAttribute");
    *(void **)&finalize = symbol(library, "cudnnBackendFinalize");
    Descriptor card = device(argv[2]);
    int kind = argv[3][0] == 'd' ? DATA : strcmp(argv[3], "filter") == 0 ? FILTER : FORWARD;
    int type = argv[4][0] == 'b' ? 9 : argv[4][0] == 'h' ? 2 : 0, last = strcmp(argv[5], "channels_last") == 0;
    int64_t groups = strtoll(argv[6], NULL, 10), input[MAX_DIMENSIONS], weight[MAX_DIMENSIONS], output[MAX_DIMENSIONS];
    int64_t padding[MAX_DIMENSIONS], stride[MAX_DIMENSIONS];
    int count = parse(argv[7], input);
    check(parse(argv[8], weight) != count || weight[1] * groups != input[1], "sizes that fit");
    check(parse(argv[9], padding) != count - 2 || parse(argv[10], stride) != count - 2, "a number a dimension");
    output[0] = input[0];
    output[1] = weight[0];
    for (int i = 2; i < count; i++) output[i] = (input[i] + 2 * padding[i - 2] - weight[i]) / stride[i - 2] + 1;
    Descriptor x = tensor('x', input, count, type, last), w = tensor('w', weight, count, type, last);
    Descriptor y = tensor('y', output, count, type, last), c = convolution(count - 2, padding, stride);
    Descriptor operation = make(kind), graph = make(GRAPH), heuristic = make(HEURISTIC);
    /* attributes in the order alpha, beta, convolution, weight, x, y; numbered from these */
    int first = kind == FORWARD ? 700 : kind == DATA ? 706 : 712;
    float one = 1, zero = 0;
    check(set(operation, first, TYPE_FLOAT, 1, &one), "alpha");
    check(set(operation, first + 1, TYPE_FLOAT, 1, &zero), "beta");
    check(set(operation, first + 2, TYPE_DESCRIPTOR, 1, &c), "convolution");
    check(set(operation, first + 3, TYPE_DESCRIPTOR, 1, &w), "weight");
    check(set(operation, first + 4, TYPE_DESCRIPTOR, 1, &x), "x");
    check(set(operation, first + 5, TYPE_DESCRIPTOR, 1, &y), "y");
    check(finalize(operation), "operation");
    check(set(graph, 801, TYPE_DESCRIPTOR, 1, &operation), "operations");
    check(finalize(graph), "graph");
    int instant = 0;
    check(set(heuristic, 201, TYPE_DESCRIPTOR, 1, &graph), "heuristic's graph");
    check(set(heuristic, 200, TYPE_HEUR_MODE, 1, &instant), "heuristic's mode");
    check(set(heuristic, 204, TYPE_DESCRIPTOR, 1, &card), "heuristic's device");
    check(finalize(heuristic), "heuristic");
    int64_t found = 0;
    Descriptor configs[MAX_CONFIGS];
    check(get(heuristic, 202, TYPE_DESCRIPTOR, 0, &found, NULL), "count");
    if (found > MAX_CONFIGS) found = MAX_CONFIGS;
    for (int i = 0; i < found; i++) configs[i] = make(ENGINE_CONFIG);
    check(get(heuristic, 202, TYPE_DESCRIPTOR, found, &found, configs), "configurations");
    for (int i = 0; i < found; i++) {
        Descriptor plan = make(PLAN);
        check(set(plan, 401, TYPE_DESCRIPTOR, 1, &configs[i]), "plan's configuration");
        check(set(plan, 407, TYPE_DESCRIPTOR, 1, &card), "plan's device");
        if (finalize(plan) != 0) continue;
        int64_t bytes = -1, said = -1, one_value = 0;
        check(get(configs[i], 303, TYPE_INT64, 1, &one_value, &said), "configuration's workspace");
        check(get(plan, 402, TYPE_INT64, 1, &one_value, &bytes), "workspace");
        printf("%lld %lld\n", (long long)bytes, (long long)said);
    }
    return 0;
}
