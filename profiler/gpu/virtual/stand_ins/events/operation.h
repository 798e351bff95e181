/* The operation of PyTorch that runs on this thread. */
#ifndef EVENTS_OPERATION_H
#define EVENTS_OPERATION_H

/* Begin and end to heed them; without effect where PyTorch's observers cannot be reached. */
void operation_observe(void);
void operation_ignore(void);

/* The innermost one that does more than to allocate, as "aten::mm"; "" outside of any. */
const char *operation_now(void);

#endif
