/* Drives the stand-ins as a program would, under the sanitizers; prints what test_stand_ins.py compares. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define EXPECT(condition)                                                     \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);       \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

int cudaMalloc(void **, size_t);
int cudaFree(void *);
int cudaMemGetInfo(size_t *, size_t *);
int cudaMemcpy(void *, const void *, size_t, int);
int cudaMemset(void *, int, size_t);
int cudaSetDevice(int);
int cudaGetDeviceCount(int *);
int cudaGetLastError(void);
int cudaHostAlloc(void **, size_t, unsigned);
int cudaFreeHost(void *);
int cudaPointerGetAttributes(void *, const void *);
int cudaStreamCreateWithFlags(void **, unsigned);
int cudaStreamDestroy(void *);
int cudaStreamBeginCapture(void *, int);
int cudaStreamEndCapture(void *, void **);
int cudaStreamIsCapturing(void *, int *);
int cudaStreamWaitEvent(void *, void *, unsigned);
int cudaEventCreateWithFlags(void **, unsigned);
int cudaEventRecord(void *, void *);
int cudaEventDestroy(void *);
int cudaEventElapsedTime(float *, void *, void *);
int cuMemAddressReserve(uint64_t *, size_t, size_t, uint64_t, uint64_t);
int cuMemAddressFree(uint64_t, size_t);
int cuMemCreate(uint64_t *, size_t, const void *, uint64_t);
int cuMemMap(uint64_t, size_t, size_t, uint64_t, uint64_t);
int cuMemUnmap(uint64_t, size_t);
int cuMemRelease(uint64_t);
int cusolverDnSgetrf_bufferSize(void *, int, int, void *, int, int *);
int cudaGraphExecUpdate(void);
int cudaStreamSynchronize(void *);
int cudaEventQuery(void *);
struct unique_id {
    char bytes[128];
};
int ncclGetUniqueId(struct unique_id *);
int ncclCommInitRank(void **, int, struct unique_id, int);
int ncclCommSplit(void *, int, int, void **, void *);
int ncclCommShrink(void *, const int *, int, void **, void *, int);
int ncclCommCount(void *, int *);
int ncclCommUserRank(void *, int *);
int ncclCommDestroy(void *);
int ncclAllReduce(const void *, void *, size_t, int, int, void *, void *);
int ncclAllGather(const void *, void *, size_t, int, void *, void *);
int ncclSend(const void *, size_t, int, int, void *, void *);
int ncclRecv(void *, size_t, int, int, void *, void *);

static size_t free_bytes(void) {
    size_t left, total;
    EXPECT(!cudaMemGetInfo(&left, &total));
    return left;
}

static size_t resident_mib(void) {
    char line[256];
    size_t pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (fgets(line, sizeof line, file)) sscanf(line, "%zu %zu", &pages, &resident);
    fclose(file);
    return resident * (size_t)sysconf(_SC_PAGESIZE) / MIB;
}

static void memory(void) {
    size_t before = free_bytes();
    void *small, *large, *none;
    EXPECT(!cudaMalloc(&small, 1));
    EXPECT(before - free_bytes() == 2 * MIB); /* a page of the driver */
    EXPECT(!cudaMalloc(&large, 600 * MIB));
    EXPECT((char *)large < (char *)small); /* falling addresses */
    EXPECT(cudaMalloc(&none, 600 * MIB) == 2 && !none && cudaGetLastError() == 2 && cudaGetLastError() == 0);
    EXPECT(cudaFree((char *)large + 512) == 1);
    size_t resident = resident_mib();
    EXPECT(!cudaMemset(large, 0, 600 * MIB));
    EXPECT(!cudaMemset((char *)large + 100, 7, 1000));
    EXPECT(!cudaMemcpy((char *)large + 300 * MIB + 3, (char *)large + 50, 2000, 3));
    EXPECT(!cudaMemcpy((char *)large + 300 * MIB, large, 300 * MIB, 3)); /* only the written pages */
    unsigned char read[1200];
    EXPECT(!cudaMemcpy(read, (char *)large + 300 * MIB, sizeof read, 2));
    EXPECT(read[99] == 0 && read[100] == 7 && read[1099] == 7 && read[1100] == 0);
    EXPECT(!cudaMemset((char *)large + 200, 0, 300));
    EXPECT(!cudaMemcpy(read, large, sizeof read, 2));
    EXPECT(read[199] == 7 && read[200] == 0 && read[499] == 0 && read[500] == 7);
    char *host = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(host, 3, 64 * MIB);
    EXPECT(!cudaMemcpy(large, host, 64 * MIB, 1)); /* left away: reads as zero */
    EXPECT(!cudaMemcpy(read, large, sizeof read, 2) && read[100] == 0);
    munmap(host, 64 * MIB);
    EXPECT(resident_mib() <= resident + 8);
    struct {
        int type, device;
        void *of_device, *of_host;
        long reserved[8];
    } attributes;
    EXPECT(!cudaPointerGetAttributes(&attributes, large) && attributes.type == 2 && attributes.device == 0);
    EXPECT(!cudaPointerGetAttributes(&attributes, read) && attributes.type == 0);
    EXPECT(!cudaFree(large) && !cudaFree(small) && free_bytes() == before);
    EXPECT(cudaFree(small) == 1);
}

static void pinned(void) {
    void *host, *device;
    EXPECT(!cudaHostAlloc(&host, 100 * MIB, 0) && !cudaMalloc(&device, 100 * MIB));
    memset(host, 5, 10);
    EXPECT(!cudaMemcpy(device, host, 100 * MIB, 1) && ((char *)device)[9] == 5 && ((char *)device)[10] == 0);
    EXPECT(!cudaFreeHost(host) && !cudaFree(device));
}

static void devices(void) {
    int count;
    EXPECT(!cudaGetDeviceCount(&count) && count == 2);
    EXPECT(cudaSetDevice(2) == 101 && cudaGetLastError() == 101);
    size_t first = free_bytes();
    EXPECT(!cudaSetDevice(1));
    void *there;
    EXPECT(!cudaMalloc(&there, 500 * MIB) && first - free_bytes() == 500 * MIB);
    int attributes[22];
    EXPECT(!cudaPointerGetAttributes(attributes, there) && attributes[1] == 1);
    EXPECT(!cudaSetDevice(0) && free_bytes() == first);
    EXPECT(!cudaFree(there));
}

static void captures(void) {
    void *first, *second, *event, *other, *graph = NULL;
    int status;
    float elapsed;
    EXPECT(!cudaStreamCreateWithFlags(&first, 1) && !cudaStreamCreateWithFlags(&second, 1));
    EXPECT(!cudaEventCreateWithFlags(&event, 0) && !cudaEventCreateWithFlags(&other, 0));
    EXPECT(cudaStreamBeginCapture(NULL, 0) && !cudaStreamBeginCapture(first, 0) && cudaStreamBeginCapture(first, 0));
    EXPECT(!cudaEventRecord(event, first) && !cudaStreamWaitEvent(second, event, 0));
    EXPECT(!cudaStreamIsCapturing(second, &status) && status == 1);
    EXPECT(!cudaStreamEndCapture(first, &graph) && graph);
    EXPECT(!cudaStreamIsCapturing(second, &status) && status == 0);
    EXPECT(!cudaStreamWaitEvent(second, event, 0) && !cudaStreamIsCapturing(second, &status) && status == 0);
    EXPECT(!cudaEventRecord(other, first) && !cudaEventElapsedTime(&elapsed, event, other) && elapsed > 0);
    EXPECT(!cudaEventDestroy(event) && !cudaEventDestroy(other));
    EXPECT(!cudaStreamDestroy(first) && !cudaStreamDestroy(second));
}

static void virtual_memory(void) {
    size_t before = free_bytes();
    int properties[16] = {1, 0, 1, 0};
    uint64_t address, handle;
    EXPECT(!cuMemAddressReserve(&address, 64 * MIB, 0, 0, 0) && free_bytes() == before);
    EXPECT(!cuMemCreate(&handle, 20 * MIB, properties, 0) && before - free_bytes() == 20 * MIB);
    EXPECT(!cuMemMap(address, 20 * MIB, 0, handle, 0));
    memset((void *)address, 1, 100);
    EXPECT(!cuMemRelease(handle) && before - free_bytes() == 20 * MIB); /* until it is unmapped */
    EXPECT(!cuMemUnmap(address, 20 * MIB) && free_bytes() == before);
    EXPECT(!cuMemAddressFree(address, 64 * MIB));
    EXPECT(cuMemCreate(&handle, 2000 * MIB, properties, 0) == 2);
}

static void *allocate_often(void *unused) {
    (void)unused;
    for (int i = 0; i < 500; i++) {
        void *address;
        EXPECT(!cudaMalloc(&address, 3 * MIB));
        *(volatile char *)address = 1;
        EXPECT(!cudaFree(address));
    }
    return NULL;
}

static void threads_and_forks(void) {
    size_t before = free_bytes();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, allocate_often, NULL);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (!child) { /* the lock is free, whoever held it */
            void *address;
            EXPECT(!cudaMalloc(&address, MIB));
            cudaGraphExecUpdate();
            _exit(0);
        }
        int status;
        EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    EXPECT(free_bytes() == before);
}

static void rank_of_three(struct unique_id id, int rank) {
    void *all, *part, *stream, *other, *event;
    int *values;
    EXPECT(!cudaStreamCreateWithFlags(&stream, 1) && !cudaStreamCreateWithFlags(&other, 1));
    EXPECT(!cudaEventCreateWithFlags(&event, 0) && !cudaMalloc((void **)&values, MIB));
    EXPECT(!ncclCommInitRank(&all, 3, id, rank));
    for (int i = 0; i < 50; i++) {
        values[0] = rank + i;
        EXPECT(!ncclAllReduce(values, values, 1, 2, 0, all, stream));
        EXPECT(!cudaEventRecord(event, stream) && !cudaStreamWaitEvent(other, event, 0));
        EXPECT(!cudaStreamSynchronize(other) && values[0] == 3 + 3 * i && !cudaEventQuery(event));
    }
    values[0] = 10 * rank;
    EXPECT(!ncclRecv(values + 1, 1, 2, (rank + 2) % 3, all, stream)); /* asked for before anybody has sent */
    EXPECT(!ncclSend(values, 1, 2, (rank + 1) % 3, all, stream));
    EXPECT(!cudaStreamSynchronize(stream) && values[1] == (rank + 2) % 3 * 10);
    /* Ranks 0 and 2 in reversed order, rank 1 alone; then all but rank 1. */
    int count, own;
    EXPECT(!ncclCommSplit(all, rank == 1, -rank, &part, NULL));
    EXPECT(!ncclCommCount(part, &count) && count == (rank == 1 ? 1 : 2) && !ncclCommUserRank(part, &own));
    EXPECT(own == (rank == 0));
    EXPECT(!ncclAllGather(values, values + 2, 1, 2, part, stream) && !cudaStreamSynchronize(stream));
    EXPECT(rank == 1 ? values[2] == 10 : values[2] == 20 && values[3] == 0);
    EXPECT(!ncclCommDestroy(part));
    if (rank != 1) {
        int left_out = 1;
        EXPECT(!ncclCommShrink(all, &left_out, 1, &part, NULL, 0));
        EXPECT(!ncclAllGather(values, values + 2, 1, 2, part, stream) && !cudaStreamSynchronize(stream));
        EXPECT(values[2] == 0 && values[3] == 20 && !ncclCommDestroy(part));
        EXPECT(!ncclAllReduce(values, values, 1, 2, 0, all, stream)); /* rank 1 has ended */
        EXPECT(cudaStreamSynchronize(stream) == 999);
    }
    EXPECT(!ncclCommDestroy(all));
}

static void ranks(void) {
    struct unique_id id;
    pid_t children[3];
    EXPECT(!ncclGetUniqueId(&id));
    for (int rank = 0; rank < 3; rank++) {
        children[rank] = fork();
        if (children[rank]) continue;
        rank_of_three(id, rank);
        _exit(0);
    }
    for (int rank = 2; rank >= 0; rank--) { /* rank 1 is a zombie for rank 2 */
        int status;
        EXPECT(waitpid(children[rank], &status, 0) == children[rank] && WIFEXITED(status) && !WEXITSTATUS(status));
    }
}

int main(void) {
    memory();
    pinned();
    devices();
    captures();
    virtual_memory();
    threads_and_forks();
    ranks();
    int size = 0;
    EXPECT(!cusolverDnSgetrf_bufferSize(NULL, 30, 20, NULL, 30, &size) && size == 600);
    for (int i = 0; i < 3; i++) cudaGraphExecUpdate();
    printf("whole\n");
    return 0;
}
