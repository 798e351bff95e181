#include "reduce.h"

#include "common.h"

#include <string.h>

enum { SUM, PRODUCT, MOST, LEAST, AVERAGE };

size_t type_bytes(int type) {
    static const unsigned char BYTES[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* ncclDataType_t */
    return type >= 0 && type < (int)sizeof BYTES ? BYTES[type] : 1;
}

bool type_is_integer(int type) { return type >= 0 && type <= 5; }

/* Wrapping integers as NCCL's kernels have them: sums and products without a sign. */
#define REDUCE_INTEGERS(type, without_sign)                                                                  \
    {                                                                                                        \
        type a, b;                                                                                           \
        memcpy(&a, to, sizeof a);                                                                            \
        memcpy(&b, from, sizeof b);                                                                          \
        if (reduction == PRODUCT) a = (type)((without_sign)a * (without_sign)b);                             \
        else if (reduction == MOST) a = a > b ? a : b;                                                       \
        else if (reduction == LEAST) a = a < b ? a : b;                                                      \
        else a = (type)((without_sign)a + (without_sign)b);                                                  \
        memcpy(to, &a, sizeof a);                                                                            \
        return;                                                                                              \
    }

#define REDUCE_FLOATS(type)                                                                                  \
    {                                                                                                        \
        type a, b;                                                                                           \
        memcpy(&a, to, sizeof a);                                                                            \
        memcpy(&b, from, sizeof b);                                                                          \
        if (reduction == PRODUCT) a *= b;                                                                    \
        else if (reduction == MOST) a = a > b ? a : b;                                                       \
        else if (reduction == LEAST) a = a < b ? a : b;                                                      \
        else a += b;                                                                                         \
        memcpy(to, &a, sizeof a);                                                                            \
        return;                                                                                              \
    }

static void reduce_one(void *to, const void *from, int type, int reduction) {
    switch (type) {
    case 0: REDUCE_INTEGERS(int8_t, uint32_t)
    case 1: REDUCE_INTEGERS(uint8_t, uint32_t)
    case 2: REDUCE_INTEGERS(int32_t, uint32_t)
    case 3: REDUCE_INTEGERS(uint32_t, uint32_t)
    case 4: REDUCE_INTEGERS(int64_t, uint64_t)
    case 5: REDUCE_INTEGERS(uint64_t, uint64_t)
    case 7: REDUCE_FLOATS(float)
    case 8: REDUCE_FLOATS(double)
    }
}

/* Halves are not: what a kernel computed is not there, so that they are zero. */
static bool is_reduced(int type) {
    if (type <= 5 || type == 7 || type == 8) return true;
    JOURNAL(HARMLESS, "a reduction of 16- or 8-bit floats gives the first rank's: floats are no sizes");
    return false;
}

static void divide(void *element, int type, int ranks) {
#define DIVIDE(type)                                                                                         \
    {                                                                                                        \
        type value;                                                                                          \
        memcpy(&value, element, sizeof value);                                                               \
        value = (type)(value / (type)ranks);                                                                 \
        memcpy(element, &value, sizeof value);                                                               \
        return;                                                                                              \
    }
    switch (type) {
    case 2: DIVIDE(int32_t)
    case 4: DIVIDE(int64_t)
    case 7: DIVIDE(float)
    case 8: DIVIDE(double)
    }
}

void reduce_parts(void *parts, size_t count, int type, int reduction, int ranks) {
    if (!is_reduced(type)) return;
    size_t bytes = type_bytes(type);
    for (size_t i = 0; i < count; i++) {
        char *element = (char *)parts + i * bytes;
        for (int rank = 1; rank < ranks; rank++) {
            reduce_one(element, element + (size_t)rank * count * bytes, type, reduction);
        }
        if (reduction == AVERAGE) divide(element, type, ranks);
    }
}

void reduce_alike(void *elements, size_t count, int type, int reduction, int ranks) {
    if (reduction == MOST || reduction == LEAST || reduction == AVERAGE || !is_reduced(type)) return;
    size_t bytes = type_bytes(type);
    for (size_t i = 0; i < count; i++) {
        char own[8];
        memcpy(own, (char *)elements + i * bytes, bytes);
        for (int rank = 1; rank < ranks; rank++) reduce_one((char *)elements + i * bytes, own, type, reduction);
    }
}
