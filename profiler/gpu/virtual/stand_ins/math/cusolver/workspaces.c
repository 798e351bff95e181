/* cuSOLVER: sizes of workspaces. NVIDIA publishes no rule; the bound here is the matrices that a routine
 * works on, counted whole, and is written to the journal. */
#include "common.h"

API int cusolverDnCreate(void **handle) {
    *handle = vgpu_new_handle();
    return SUCCESS;
}
API int cusolverDnCreateParams(void **params) { return cusolverDnCreate(params); }
API int cusolverDnCreateGesvdjInfo(void **info) { return cusolverDnCreate(info); }
API int cusolverDnCreateSyevjInfo(void **info) { return cusolverDnCreate(info); }
API int cusolverSpCreate(void **handle) { return cusolverDnCreate(handle); }

API int cusolverGetProperty(int property, int *value) {
    *value = property == 0 ? 11 : 0;
    return SUCCESS;
}

typedef long long wide;

static int bound(int *elements, wide count) {
    *elements = count > 2147483647 ? 2147483647 : (int)count;
    return SUCCESS;
}
#define ASSUME(name) JOURNAL(ASSUMED, #name "_bufferSize: the matrices whole")

#define FACTORS(T, ORGQR, ORMQR, EVD, EVJ)                                                                             \
    API int cusolverDn##T##geqrf_bufferSize(void *h, int m, int n, void *a, int lda, int *size) {                      \
        (void)h, (void)a, (void)lda;                                                                                   \
        ASSUME(cusolverDn##T##geqrf);                                                                                  \
        return bound(size, (wide)m * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##getrf_bufferSize(void *h, int m, int n, void *a, int lda, int *size) {                      \
        (void)h, (void)a, (void)lda;                                                                                   \
        ASSUME(cusolverDn##T##getrf);                                                                                  \
        return bound(size, (wide)m * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##gesvd_bufferSize(void *h, int m, int n, int *size) {                                        \
        (void)h;                                                                                                       \
        ASSUME(cusolverDn##T##gesvd);                                                                                  \
        return bound(size, (wide)m * n + 2LL * n * n);                                                                 \
    }                                                                                                                  \
    API int cusolverDn##T##gesvdj_bufferSize(void *h, int job, int econ, int m, int n, void *a, int lda, void *s,      \
                                             void *u, int ldu, void *v, int ldv, int *size, void *params) {            \
        (void)h, (void)job, (void)econ, (void)a, (void)lda, (void)s, (void)u, (void)ldu, (void)v, (void)ldv;           \
        (void)params;                                                                                                  \
        ASSUME(cusolverDn##T##gesvdj);                                                                                 \
        return bound(size, (wide)m * n + 2LL * n * n);                                                                 \
    }                                                                                                                  \
    API int cusolverDn##T##gesvdjBatched_bufferSize(void *h, int job, int m, int n, void *a, int lda, void *s,         \
                                                    void *u, int ldu, void *v, int ldv, int *size, void *params,       \
                                                    int batch) {                                                       \
        (void)h, (void)job, (void)a, (void)lda, (void)s, (void)u, (void)ldu, (void)v, (void)ldv, (void)params;         \
        ASSUME(cusolverDn##T##gesvdjBatched);                                                                          \
        return bound(size, ((wide)m * n + n) * batch);                                                                 \
    }                                                                                                                  \
    API int cusolverDn##T##gesvdaStridedBatched_bufferSize(                                                            \
        void *h, int job, int rank, int m, int n, void *a, int lda, wide sa, void *s, wide ss, void *u, int ldu,       \
        wide su, void *v, int ldv, wide sv, int *size, int batch) {                                                    \
        (void)h, (void)job, (void)rank, (void)a, (void)lda, (void)sa, (void)s, (void)ss, (void)u, (void)ldu;           \
        (void)su, (void)v, (void)ldv, (void)sv;                                                                        \
        ASSUME(cusolverDn##T##gesvdaStridedBatched);                                                                   \
        return bound(size, ((wide)m * n + (wide)n * n) * batch);                                                       \
    }                                                                                                                  \
    API int cusolverDn##T##potrf_bufferSize(void *h, int uplo, int n, void *a, int lda, int *size) {                   \
        (void)h, (void)uplo, (void)a, (void)lda;                                                                       \
        ASSUME(cusolverDn##T##potrf);                                                                                  \
        return bound(size, (wide)n * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##sytrf_bufferSize(void *h, int n, void *a, int lda, int *size) {                             \
        (void)h, (void)a, (void)lda;                                                                                   \
        ASSUME(cusolverDn##T##sytrf);                                                                                  \
        return bound(size, (wide)n * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##ORGQR##_bufferSize(void *h, int m, int n, int k, void *a, int lda, void *tau, int *size) {  \
        (void)h, (void)k, (void)a, (void)lda, (void)tau;                                                               \
        ASSUME(cusolverDn##T##ORGQR);                                                                                  \
        return bound(size, (wide)m * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##ORMQR##_bufferSize(void *h, int side, int trans, int m, int n, int k, void *a, int lda,     \
                                              void *tau, void *c, int ldc, int *size) {                                \
        (void)h, (void)side, (void)trans, (void)k, (void)a, (void)lda, (void)tau, (void)c, (void)ldc;                  \
        ASSUME(cusolverDn##T##ORMQR);                                                                                  \
        return bound(size, (wide)m * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##EVD##_bufferSize(void *h, int job, int uplo, int n, void *a, int lda, void *w, int *size) { \
        (void)h, (void)job, (void)uplo, (void)a, (void)lda, (void)w;                                                   \
        ASSUME(cusolverDn##T##EVD);                                                                                    \
        return bound(size, 2LL * n * n + 6LL * n + 1); /* LAPACK's own for syevd */                                    \
    }                                                                                                                  \
    API int cusolverDn##T##EVJ##_bufferSize(void *h, int job, int uplo, int n, void *a, int lda, void *w, int *size,   \
                                            void *params) {                                                            \
        (void)h, (void)job, (void)uplo, (void)a, (void)lda, (void)w, (void)params;                                     \
        ASSUME(cusolverDn##T##EVJ);                                                                                    \
        return bound(size, 2LL * n * n);                                                                               \
    }                                                                                                                  \
    API int cusolverDn##T##EVJ##Batched_bufferSize(void *h, int job, int uplo, int n, void *a, int lda, void *w,       \
                                                   int *size, void *params, int batch) {                               \
        (void)h, (void)job, (void)uplo, (void)a, (void)lda, (void)w, (void)params;                                     \
        ASSUME(cusolverDn##T##EVJ##Batched);                                                                           \
        return bound(size, 2LL * n * n * batch);                                                                       \
    }
FACTORS(S, orgqr, ormqr, syevd, syevj)
FACTORS(D, orgqr, ormqr, syevd, syevj)
FACTORS(C, ungqr, unmqr, heevd, heevj)
FACTORS(Z, ungqr, unmqr, heevd, heevj)

/* The 64-bit interface counts bytes; cudaDataType gives an element's. */
static size_t element_bytes(int type) {
    switch (type) {
    case 0: return 4; /* CUDA_R_32F */
    case 1: return 8; /* CUDA_R_64F */
    case 4: return 8; /* CUDA_C_32F */
    default: return 16;
    }
}

static int bound_bytes(size_t *device, size_t *host, wide elements, int type) {
    *device = (size_t)elements * element_bytes(type);
    *host = 0;
    return SUCCESS;
}

API int cusolverDnXgeqrf_bufferSize(void *h, void *params, wide m, wide n, int type, void *a, wide lda, int tau_type,
                                    void *tau, int compute, size_t *device, size_t *host) {
    (void)h, (void)params, (void)a, (void)lda, (void)tau_type, (void)tau, (void)compute;
    ASSUME(cusolverDnXgeqrf);
    return bound_bytes(device, host, m * n, type);
}

API int cusolverDnXpotrf_bufferSize(void *h, void *params, int uplo, wide n, int type, void *a, wide lda, int compute,
                                    size_t *device, size_t *host) {
    (void)h, (void)params, (void)uplo, (void)a, (void)lda, (void)compute;
    ASSUME(cusolverDnXpotrf);
    return bound_bytes(device, host, n * n, type);
}

API int cusolverDnXgetrf_bufferSize(void *h, void *params, wide m, wide n, int type, void *a, wide lda, int compute,
                                    size_t *device, size_t *host) {
    (void)h, (void)params, (void)a, (void)lda, (void)compute;
    ASSUME(cusolverDnXgetrf);
    return bound_bytes(device, host, m * n, type);
}

API int cusolverDnXsyevd_bufferSize(void *h, void *params, int job, int uplo, wide n, int type, void *a, wide lda,
                                    int w_type, void *w, int compute, size_t *device, size_t *host) {
    (void)h, (void)params, (void)job, (void)uplo, (void)a, (void)lda, (void)w_type, (void)w, (void)compute;
    ASSUME(cusolverDnXsyevd);
    return bound_bytes(device, host, 2 * n * n + 6 * n + 1, type);
}

API int cusolverDnXsyevBatched_bufferSize(void *h, void *params, int job, int uplo, wide n, int type, void *a, wide lda,
                                          int w_type, void *w, int compute, size_t *device, size_t *host, wide batch) {
    (void)h, (void)params, (void)job, (void)uplo, (void)a, (void)lda, (void)w_type, (void)w, (void)compute;
    ASSUME(cusolverDnXsyevBatched);
    return bound_bytes(device, host, 2 * n * n * batch, type);
}

API int cusolverDnXgeev_bufferSize(void *h, void *params, int left, int right, wide n, int type, void *a, wide lda,
                                   int w_type, void *w, int vl_type, void *vl, wide ldvl, int vr_type, void *vr,
                                   wide ldvr, int compute, size_t *device, size_t *host) {
    (void)h, (void)params, (void)left, (void)right, (void)a, (void)lda, (void)w_type, (void)w, (void)vl_type;
    (void)vl, (void)ldvl, (void)vr_type, (void)vr, (void)ldvr, (void)compute;
    ASSUME(cusolverDnXgeev);
    return bound_bytes(device, host, 3 * n * n, type);
}

API int cusolverDnXsytrs_bufferSize(void *h, int uplo, wide n, wide columns, int type, void *a, wide lda, void *pivots,
                                    int b_type, void *b, wide ldb, size_t *device, size_t *host) {
    (void)h, (void)uplo, (void)a, (void)lda, (void)pivots, (void)b_type, (void)b, (void)ldb;
    ASSUME(cusolverDnXsytrs);
    return bound_bytes(device, host, n * columns, type);
}
