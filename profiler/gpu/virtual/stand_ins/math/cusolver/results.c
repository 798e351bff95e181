/* cuSOLVER: every factorization and every solve succeeds: its info, which PyTorch reads back, is 0.
 *
 * No argument is passed in a floating-point register, so that all of them can be taken as words.
 */
#include "common.h"

#include <stdarg.h>

/* Argument `info` (the handle is argument 0) points to an int, or to as many as argument `batch` says. */
static void succeed(va_list arguments, int info, int batch) {
    uintptr_t words[24] = {0};
    int last = batch > info ? batch : info;
    for (int i = 1; i <= last; i++) words[i] = va_arg(arguments, uintptr_t);
    size_t count = batch ? (uint32_t)words[batch] : 1;
    vgpu_memory_fill((void *)words[info], 0, count * sizeof(int));
}

#define SUCCEEDS(name, info, batch)                  \
    API int cusolverDn##name(uintptr_t handle, ...) { \
        va_list arguments;                           \
        va_start(arguments, handle);                 \
        succeed(arguments, info, batch);             \
        va_end(arguments);                           \
        return SUCCESS;                              \
    }

#define FOR_TYPE(T, ORGQR, ORMQR, EVD, EVJ)       \
    SUCCEEDS(T##geqrf, 8, 0)                      \
    SUCCEEDS(T##getrf, 7, 0)                      \
    SUCCEEDS(T##getrs, 9, 0)                      \
    SUCCEEDS(T##gesvd, 15, 0)                     \
    SUCCEEDS(T##gesvdj, 14, 0)                    \
    SUCCEEDS(T##gesvdjBatched, 13, 15)            \
    SUCCEEDS(T##gesvdaStridedBatched, 19, 20)     \
    SUCCEEDS(T##potrf, 7, 0)                      \
    SUCCEEDS(T##potrfBatched, 5, 6)               \
    SUCCEEDS(T##potrs, 8, 0)                      \
    SUCCEEDS(T##potrsBatched, 8, 0)               \
    SUCCEEDS(T##sytrf, 8, 0)                      \
    SUCCEEDS(T##ORGQR, 9, 0)                      \
    SUCCEEDS(T##ORMQR, 13, 0)                     \
    SUCCEEDS(T##EVD, 9, 0)                        \
    SUCCEEDS(T##EVJ, 9, 0)                        \
    SUCCEEDS(T##EVJ##Batched, 9, 11)
FOR_TYPE(S, orgqr, ormqr, syevd, syevj)
FOR_TYPE(D, orgqr, ormqr, syevd, syevj)
FOR_TYPE(C, ungqr, unmqr, heevd, heevj)
FOR_TYPE(Z, ungqr, unmqr, heevd, heevj)

SUCCEEDS(Xgetrf, 13, 0)
SUCCEEDS(Xgeqrf, 14, 0)
SUCCEEDS(Xpotrf, 12, 0)
SUCCEEDS(Xpotrs, 11, 0)
SUCCEEDS(Xsyevd, 15, 0)
SUCCEEDS(XsyevBatched, 15, 16)
SUCCEEDS(Xgeev, 21, 0)
SUCCEEDS(Xsytrs, 15, 0)
