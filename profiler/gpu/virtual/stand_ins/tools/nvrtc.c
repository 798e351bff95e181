/* NVRTC: compiled code is never run, so none is made. */
#include "common.h"

#include <string.h>

API int nvrtcVersion(int *major, int *minor) {
    *major = CUDA_MAJOR;
    *minor = CUDA_MAJOR == 12 ? 4 : 0;
    return SUCCESS;
}

API int nvrtcCreateProgram(void **program) {
    *program = vgpu_new_handle();
    return SUCCESS;
}

API int nvrtcGetLoweredName(void *program, const char *expression, const char **name) {
    (void)program;
    *name = expression;
    return SUCCESS;
}

static const int ARCHITECTURES[] = {75, 80, 86, 89, 90, 100, 103, 120};

API int nvrtcGetNumSupportedArchs(int *count) {
    *count = sizeof ARCHITECTURES / sizeof *ARCHITECTURES;
    return SUCCESS;
}

API int nvrtcGetSupportedArchs(int *architectures) {
    memcpy(architectures, ARCHITECTURES, sizeof ARCHITECTURES);
    return SUCCESS;
}

#define EMPTY(name)                                                 \
    API int nvrtcGet##name##Size(void *program, size_t *bytes) {    \
        (void)program;                                              \
        *bytes = 1;                                                 \
        return SUCCESS;                                             \
    }                                                               \
    API int nvrtcGet##name(void *program, char *text) {             \
        (void)program;                                              \
        *text = 0;                                                  \
        return SUCCESS;                                             \
    }
EMPTY(PTX)
EMPTY(CUBIN)
EMPTY(LTOIR)
EMPTY(ProgramLog)

API const char *nvrtcGetErrorString(int result) { return result ? "NVRTC_ERROR_INTERNAL_ERROR" : "NVRTC_SUCCESS"; }
