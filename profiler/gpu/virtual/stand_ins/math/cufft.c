/* cuFFT: the size of a plan's work area. NVIDIA publishes no rule; what is assumed is one complex number for
 * each element of the batch, and is written to the journal. */
#include "common.h"

API int cufftCreate(int *plan) {
    *plan = (int)((uintptr_t)vgpu_new_handle() >> 4 & 0x7fffffff);
    return SUCCESS;
}

API int cufftGetVersion(int *version) {
    *version = CUDA_MAJOR == 12 ? 11200 : 12000;
    return SUCCESS;
}

API int cufftGetProperty(int property, int *value) {
    *value = property == 0 ? CUDA_MAJOR - 1 : 0;
    return SUCCESS;
}

static size_t complex_bytes(int type) {
    switch (type) { /* cudaDataType */
    case 1: case 5: return 16;  /* CUDA_R_64F, CUDA_C_64F */
    case 2: case 6: return 4;   /* CUDA_R_16F, CUDA_C_16F */
    case 14: case 15: return 4; /* CUDA_R_16BF, CUDA_C_16BF */
    default: return 8;
    }
}

static int work_area(size_t *bytes, int dimensions, const long long *sizes, long long batch, size_t element_bytes) {
    JOURNAL(ASSUMED, "the work area of an FFT: a complex number for each element");
    *bytes = (size_t)batch * element_bytes;
    for (int i = 0; i < dimensions; i++) *bytes *= (size_t)sizes[i];
    return SUCCESS;
}

API int cufftXtMakePlanMany(int plan, int dimensions, const long long *sizes, void *inembed, long long istride,
                            long long idist, int input, void *onembed, long long ostride, long long odist, int output,
                            long long batch, size_t *bytes, int execution) {
    (void)plan, (void)inembed, (void)istride, (void)idist, (void)input, (void)onembed, (void)ostride, (void)odist;
    (void)output;
    return work_area(bytes, dimensions, sizes, batch, complex_bytes(execution));
}

API int cufftMakePlanMany64(int plan, int dimensions, const long long *sizes, void *inembed, long long istride,
                            long long idist, void *onembed, long long ostride, long long odist, int type,
                            long long batch, size_t *bytes) {
    (void)plan, (void)inembed, (void)istride, (void)idist, (void)onembed, (void)ostride, (void)odist;
    return work_area(bytes, dimensions, sizes, batch, type >= 0x69 ? 16 : 8); /* CUFFT_Z2Z, D2Z, Z2D */
}
