/* pending.c: operations that have not ended when their call returns. */
#ifndef VIRTUAL_GPU_PENDING_H
#define VIRTUAL_GPU_PENDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VGPU_DONE = 0, VGPU_NOT_YET = 1, VGPU_FAILED = 2 };

/* Does what can be done of an operation without waiting; called with the lock held. What it gives back other than
 * VGPU_NOT_YET is its end: `object` is then its own to free. */
typedef int vgpu_advance(void *object);

void vgpu_pending_add(const void *stream, vgpu_advance *advance, void *object);
/* Without their end: the operations for which `of` says so, after it has freed them. */
void vgpu_pending_drop(bool (*of)(void *object, const void *owner), const void *owner);

/* The operations that an event stands behind. */
struct vgpu_waits {
    uint64_t *numbers;
    size_t count;
};
void vgpu_waits_record(struct vgpu_waits *waits, const void *stream);
void vgpu_waits_join(const struct vgpu_waits *waits, const void *stream);
bool vgpu_waits_left(const struct vgpu_waits *waits);
int vgpu_waits_settle(const struct vgpu_waits *waits);

int vgpu_pending_settle(void); /* until all have ended */

#endif
