/* cuSPARSE: descriptors, and sizes of workspaces. NVIDIA publishes no rule for them; what is assumed here is
 * written to the journal. */
#include "common.h"

#include <stdlib.h>

/* A matrix or a vector: its shape is what the bounds are made of. */
struct descriptor {
    int64_t rows, columns, nonzero;
};

static int create(struct descriptor **to, int64_t rows, int64_t columns, int64_t nonzero) {
    *to = calloc(1, sizeof **to);
    if (!*to) return 2; /* CUSPARSE_STATUS_ALLOC_FAILED */
    **to = (struct descriptor){rows, columns, nonzero};
    return SUCCESS;
}

static int destroy(struct descriptor *of) {
    free(of);
    return SUCCESS;
}

static int object(void **to) {
    *to = vgpu_new_handle();
    return SUCCESS;
}

API int cusparseCreate(void **handle) { return object(handle); }
API int cusparseCreateMatDescr(void **description) { return object(description); }
API int cusparseCreateBsrsm2Info(void **info) { return object(info); }
API int cusparseCreateBsrsv2Info(void **info) { return object(info); }
API int cusparseSpGEMM_createDescr(void **description) { return object(description); }
API int cusparseSpSM_createDescr(void **description) { return object(description); }
API int cusparseSpSV_createDescr(void **description) { return object(description); }

API int cusparseCreateCsr(struct descriptor **to, int64_t rows, int64_t columns, int64_t nonzero) {
    return create(to, rows, columns, nonzero);
}
API int cusparseCreateCoo(struct descriptor **to, int64_t rows, int64_t columns, int64_t nonzero) {
    return create(to, rows, columns, nonzero);
}
API int cusparseCreateCsc(struct descriptor **to, int64_t rows, int64_t columns, int64_t nonzero) {
    return create(to, rows, columns, nonzero);
}
API int cusparseCreateDnMat(struct descriptor **to, int64_t rows, int64_t columns) {
    return create(to, rows, columns, rows * columns);
}
API int cusparseCreateDnVec(struct descriptor **to, int64_t size) { return create(to, size, 1, size); }
API int cusparseDestroySpMat(struct descriptor *of) { return destroy(of); }
API int cusparseDestroyDnMat(struct descriptor *of) { return destroy(of); }
API int cusparseDestroyDnVec(struct descriptor *of) { return destroy(of); }

API int cusparseSpMatGetSize(const struct descriptor *of, int64_t *rows, int64_t *columns, int64_t *nonzero) {
    *rows = of->rows;
    *columns = of->columns;
    *nonzero = of->nonzero;
    return SUCCESS;
}

API int cusparseGetVersion(void *handle, int *version) {
    (void)handle;
    *version = 12600;
    return SUCCESS;
}

API const char *cusparseGetErrorName(int status) { return status ? "CUSPARSE_STATUS_INTERNAL_ERROR" : "CUSPARSE_STATUS_SUCCESS"; }
API const char *cusparseGetErrorString(int status) { return status ? "internal error" : "success"; }

/* One index of 4 bytes for each nonzero entry and each row. */
static int bound(size_t *bytes, const struct descriptor *of) {
    *bytes = (size_t)(of->nonzero + of->rows + 1) * 4;
    return SUCCESS;
}
#define ASSUME(name) JOURNAL(ASSUMED, #name ": 4 bytes an entry and a row")

API int cusparseSpMM_bufferSize(void *h, int op_a, int op_b, void *alpha, struct descriptor *a, void *b, void *beta,
                                void *c, int type, int algorithm, size_t *bytes) {
    (void)h, (void)op_a, (void)op_b, (void)alpha, (void)b, (void)beta, (void)c, (void)type, (void)algorithm;
    ASSUME(cusparseSpMM_bufferSize);
    return bound(bytes, a);
}

API int cusparseSpMV_bufferSize(void *h, int op, void *alpha, struct descriptor *a, void *x, void *beta, void *y, int type,
                                int algorithm, size_t *bytes) {
    (void)h, (void)op, (void)alpha, (void)x, (void)beta, (void)y, (void)type, (void)algorithm;
    ASSUME(cusparseSpMV_bufferSize);
    return bound(bytes, a);
}

API int cusparseSDDMM_bufferSize(void *h, int op_a, int op_b, void *alpha, void *a, void *b, void *beta,
                                 struct descriptor *c, int type, int algorithm, size_t *bytes) {
    (void)h, (void)op_a, (void)op_b, (void)alpha, (void)a, (void)b, (void)beta, (void)type, (void)algorithm;
    ASSUME(cusparseSDDMM_bufferSize);
    return bound(bytes, c);
}

API int cusparseSpSV_bufferSize(void *h, int op, void *alpha, struct descriptor *a, void *x, void *y, int type,
                                int algorithm, void *description, size_t *bytes) {
    (void)h, (void)op, (void)alpha, (void)x, (void)y, (void)type, (void)algorithm, (void)description;
    ASSUME(cusparseSpSV_bufferSize);
    return bound(bytes, a);
}

API int cusparseSpSM_bufferSize(void *h, int op_a, int op_b, void *alpha, struct descriptor *a, void *b, void *c, int type,
                                int algorithm, void *description, size_t *bytes) {
    (void)h, (void)op_a, (void)op_b, (void)alpha, (void)b, (void)c, (void)type, (void)algorithm, (void)description;
    ASSUME(cusparseSpSM_bufferSize);
    return bound(bytes, a);
}

/* Asked twice: for the size, then with the buffer. */
API int cusparseSpGEMM_workEstimation(void *h, int op_a, int op_b, void *alpha, struct descriptor *a, void *b, void *beta,
                                      void *c, int type, int algorithm, void *description, size_t *bytes, void *buffer) {
    (void)h, (void)op_a, (void)op_b, (void)alpha, (void)b, (void)beta, (void)c, (void)type, (void)algorithm;
    (void)description;
    ASSUME(cusparseSpGEMM_workEstimation);
    return buffer ? SUCCESS : bound(bytes, a);
}

API int cusparseSpGEMM_compute(void *h, int op_a, int op_b, void *alpha, struct descriptor *a, void *b, void *beta,
                               void *c, int type, int algorithm, void *description, size_t *bytes, void *buffer) {
    (void)h, (void)op_a, (void)op_b, (void)alpha, (void)b, (void)beta, (void)c, (void)type, (void)algorithm;
    (void)description;
    ASSUME(cusparseSpGEMM_compute);
    return buffer ? SUCCESS : bound(bytes, a);
}

API int cusparseXcoosort_bufferSizeExt(void *h, int m, int n, int nonzero, void *rows, void *columns, size_t *bytes) {
    (void)h, (void)m, (void)n, (void)rows, (void)columns;
    JOURNAL(ASSUMED, "cusparseXcoosort_bufferSizeExt: 16 bytes an entry");
    *bytes = (size_t)nonzero * 16;
    return SUCCESS;
}

API int cusparseXcsrsort_bufferSizeExt(void *h, int m, int n, int nonzero, void *rows, void *columns, size_t *bytes) {
    (void)h, (void)m, (void)n, (void)rows, (void)columns;
    JOURNAL(ASSUMED, "cusparseXcsrsort_bufferSizeExt: 16 bytes an entry");
    *bytes = (size_t)nonzero * 16;
    return SUCCESS;
}

API int cusparseXcsrgeam2Nnz(void *h, int m, int n, void *da, int na, void *ra, void *ca, void *db, int nb, void *rb,
                             void *cb, void *dc, void *rc, int *nonzero) {
    (void)h, (void)m, (void)n, (void)da, (void)ra, (void)ca, (void)db, (void)rb, (void)cb, (void)dc, (void)rc;
    JOURNAL(ASSUMED, "the sum of sparse matrices: no two entries at one place (an upper bound)");
    *nonzero = na + nb;
    return SUCCESS;
}

/* No pivot is zero. */
#define PIVOTS(name_)                                          \
    API int name_(void *h, void *info, int *position) {        \
        (void)h, (void)info;                                   \
        *position = -1;                                        \
        return SUCCESS;                                        \
    }
PIVOTS(cusparseXbsrsm2_zeroPivot)
PIVOTS(cusparseXbsrsv2_zeroPivot)

#define BLOCKED(T)                                                                                                     \
    API int cusparse##T##csrgeam2_bufferSizeExt(void *h, int m, int n, void *alpha, void *da, int na, void *va,        \
                                                void *ra, void *ca, void *beta, void *db, int nb, void *vb, void *rb,  \
                                                void *cb, void *dc, void *vc, void *rc, void *cc, size_t *bytes) {     \
        (void)h, (void)n, (void)alpha, (void)da, (void)va, (void)ra, (void)ca, (void)beta, (void)db, (void)vb;         \
        (void)rb, (void)cb, (void)dc, (void)vc, (void)rc, (void)cc;                                                    \
        JOURNAL(ASSUMED, "cusparse" #T "csrgeam2_bufferSizeExt: 4 bytes an entry and a row");                          \
        *bytes = ((size_t)na + (size_t)nb + (size_t)m + 1) * 4;                                                        \
        return SUCCESS;                                                                                                \
    }                                                                                                                  \
    API int cusparse##T##bsrsv2_bufferSize(void *h, int dir, int op, int rows, int nonzero, void *d, void *v, void *r, \
                                           void *c, int block, void *info, int *bytes) {                               \
        (void)h, (void)dir, (void)op, (void)d, (void)v, (void)r, (void)c, (void)info;                                  \
        JOURNAL(ASSUMED, "cusparse" #T "bsrsv2_bufferSize: 4 bytes an entry and a row");                               \
        *bytes = (nonzero + rows + 1) * 4 * block;                                                                     \
        return SUCCESS;                                                                                                \
    }                                                                                                                  \
    API int cusparse##T##bsrsm2_bufferSize(void *h, int dir, int op_a, int op_x, int rows, int n, int nonzero,         \
                                           void *d, void *v, void *r, void *c, int block, void *info, int *bytes) {    \
        (void)h, (void)dir, (void)op_a, (void)op_x, (void)n, (void)d, (void)v, (void)r, (void)c, (void)info;           \
        JOURNAL(ASSUMED, "cusparse" #T "bsrsm2_bufferSize: 4 bytes an entry and a row");                               \
        *bytes = (nonzero + rows + 1) * 4 * block;                                                                     \
        return SUCCESS;                                                                                                \
    }
BLOCKED(S)
BLOCKED(D)
BLOCKED(C)
BLOCKED(Z)
