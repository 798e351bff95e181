/* cuSPARSELt: 2:4 sparse matrices. */
#include "common.h"

/* What is kept in the caller's own, larger structure. */
struct matrix {
    int64_t rows, columns;
    int type;
};

API int cusparseLtDenseDescriptorInit(void *handle, struct matrix *matrix, int64_t rows, int64_t columns, int64_t leading,
                                      uint32_t alignment, int type) {
    (void)handle, (void)leading, (void)alignment;
    *matrix = (struct matrix){rows, columns, type};
    return SUCCESS;
}

API int cusparseLtStructuredDescriptorInit(void *handle, struct matrix *matrix, int64_t rows, int64_t columns,
                                           int64_t leading, uint32_t alignment, int type) {
    return cusparseLtDenseDescriptorInit(handle, matrix, rows, columns, leading, alignment, type);
}

/* Half the values, and two bits for each of them: 9/16 of the dense matrix for 16-bit values. */
API int cusparseLtSpMMACompressedSize2(void *handle, const struct matrix *matrix, size_t *bytes, size_t *buffer_bytes) {
    (void)handle;
    JOURNAL(ASSUMED, "cusparseLtSpMMACompressedSize2: values and two bits each");
    size_t element = matrix->type == 0 ? 4 : matrix->type == 2 || matrix->type == 14 ? 2 : 1; /* cudaDataType */
    size_t kept = (size_t)(matrix->rows * matrix->columns) / 2;
    *bytes = kept * element + kept / 4;
    *buffer_bytes = 0;
    return SUCCESS;
}

API int cusparseLtMatmulGetWorkspace(void *handle, void *plan, size_t *bytes) {
    (void)handle, (void)plan;
    JOURNAL(ASSUMED, "cusparseLtMatmulGetWorkspace: none");
    *bytes = 0;
    return SUCCESS;
}

API int cusparseLtMatmulAlgGetAttribute(void *handle, void *selection, int attribute, void *value, size_t bytes) {
    (void)handle, (void)selection, (void)attribute;
    for (size_t i = 0; i < bytes; i++) ((char *)value)[i] = 0;
    return SUCCESS;
}
