"""Up to which size values are followed: small enough to cost little, large enough for ids and masks."""

INTEGER_BYTES = 16 << 20  # an integer or boolean tensor
FLOATS = 1 << 14  # elements of a floating-point tensor that is computed
COPIED_BYTES = 4 << 20  # a tensor that is only copied; the stand-ins copy as much (stand_ins/core/contents.c)
ASSUMED_BYTES = 1 << 20  # an integer or boolean result of values that are not computed
