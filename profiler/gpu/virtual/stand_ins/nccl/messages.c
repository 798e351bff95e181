/* Messages between the processes of one machine: files in a folder that the card's file names.
 *
 * A message is written whole and then named, so that who finds it can read it. Sending never waits.
 */
#include "nccl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES (4096 + NAME_BYTES + 100)

static void name(char *path, const struct message *message) {
    snprintf(path, PATH_BYTES, "%s/nccl/%s.%llu.%d.%d", vgpu_card()->journal_folder, message->of->name,
             (unsigned long long)message->number, message->sender, message->peer);
}

static void name_of_process(char *path, const struct communicator *of, int rank) {
    snprintf(path, PATH_BYTES, "%s/nccl/%s.process.%d", vgpu_card()->journal_folder, of->name, rank);
}

static bool write_whole(const char *path, const void *head, size_t head_bytes, const void *body, size_t body_bytes) {
    char writing[PATH_BYTES + 8];
    snprintf(writing, sizeof writing, "%s.new", path);
    int file = open(writing, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return false;
    bool whole = write(file, head, head_bytes) == (ssize_t)head_bytes;
    for (size_t done = 0; whole && done < body_bytes;) {
        ssize_t now = write(file, (const char *)body + done, body_bytes - done);
        whole = now > 0;
        if (whole) done += (size_t)now;
    }
    close(file);
    return whole && !rename(writing, path);
}

static void make_folder(void) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/nccl", vgpu_card()->journal_folder);
    mkdir(path, 0700); /* another rank may have made it */
}

void communicator_announce(const struct communicator *communicator) {
    char path[PATH_BYTES], process[32];
    make_folder();
    name_of_process(path, communicator, communicator->rank);
    int length = snprintf(process, sizeof process, "%ld", (long)getpid());
    write_whole(path, process, (size_t)length, NULL, 0);
}

/* Whether the process that has this rank has ended; one that never came has not. */
static bool dead(const struct communicator *of, int rank) {
    char path[PATH_BYTES], text[512];
    name_of_process(path, of, rank);
    FILE *file = fopen(path, "re");
    if (!file) return false;
    long process = 0;
    bool known = fgets(text, sizeof text, file) && (process = strtol(text, NULL, 10)) > 0;
    fclose(file);
    if (!known) return false;
    if (kill((pid_t)process, 0) && errno == ESRCH) return true;
    snprintf(path, sizeof path, "/proc/%ld/stat", process);
    file = fopen(path, "re");
    if (!file) return false;
    char *state = fgets(text, sizeof text, file) ? strrchr(text, ')') : NULL; /* PID (name) STATE ... */
    fclose(file);
    return state && (state[2] == 'Z' || state[2] == 'X');
}

bool message_put(const struct communicator *of, uint64_t number, int peer, const void *bytes, size_t count) {
    char path[PATH_BYTES];
    name(path, &(struct message){of, number, of->rank, peer});
    return write_whole(path, &of->unfinished, sizeof of->unfinished, bytes, count);
}

int message_get(const struct message *message, size_t offset, void *bytes, size_t count, uint64_t *read_by_sender) {
    char path[PATH_BYTES];
    name(path, message);
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0 && dead(message->of, message->sender)) {
        file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW); /* it may have sent this first */
        if (file < 0) {
            fprintf(stderr, "virtual GPU: NCCL rank %d of %d ended before rank %d had its part of a collective\n",
                    message->sender, message->of->ranks, message->of->rank);
            return -1;
        }
    }
    if (file < 0) return 0;
    uint64_t read_before = 0;
    ssize_t head = pread(file, &read_before, sizeof read_before, 0);
    ssize_t there = head < 0 ? -1 : pread(file, bytes, count, (off_t)(sizeof read_before + offset));
    close(file);
    if (there != (ssize_t)count) {
        fprintf(stderr, "virtual GPU: NCCL rank %d sent %zd bytes where rank %d expects %zu\n", message->sender, there,
                message->of->rank, count);
        return -1;
    }
    if (read_by_sender && read_before > *read_by_sender) *read_by_sender = read_before;
    return 1;
}

void message_remove(const struct message *message) {
    char path[PATH_BYTES];
    name(path, message);
    unlink(path);
}
