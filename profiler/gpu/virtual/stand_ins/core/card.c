/* The card: read from the file that PROFILER_VIRTUAL_GPU names, once, and once more in a forked process, whose
 * environment may name another. */
#include "common.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct card the_card;
static pthread_once_t once = PTHREAD_ONCE_INIT;

struct number {
    const char *key;
    size_t offset;
    bool wide;
};
#define INT(field) {#field, offsetof(struct card, field), false}
#define SIZE(field) {#field, offsetof(struct card, field), true}
static const struct number NUMBERS[] = {
    {"devices", offsetof(struct card, installed), false}, SIZE(memory_bytes), SIZE(context_bytes), INT(major), INT(minor), INT(multiprocessors),
    INT(threads_per_multiprocessor), INT(blocks_per_multiprocessor),
    SIZE(shared_memory_per_multiprocessor_bytes), SIZE(shared_memory_per_block_optin_bytes),
    SIZE(reserved_shared_memory_per_block_bytes), SIZE(shared_memory_unit_bytes),
    SIZE(l2_cache_bytes), SIZE(nvml_total_bytes), INT(memory_bus_bits), INT(clock_khz), INT(memory_clock_khz), INT(ecc), INT(clusters),
    INT(copy_engines), INT(pci_device_id),
    INT(rising_addresses), INT(cudnn_version), INT(lone_rank), INT(events_wait), SIZE(nccl_bytes),
};

static void take(const char *key, const char *value) {
    if (!strcmp(key, "name")) {
        snprintf(the_card.name, sizeof the_card.name, "%s", value);
    } else if (!strcmp(key, "journal_folder")) {
        snprintf(the_card.journal_folder, sizeof the_card.journal_folder, "%s", value);
    } else if (!strcmp(key, "cudnn_library")) {
        snprintf(the_card.cudnn_library, sizeof the_card.cudnn_library, "%s", value);
    }
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) {
        if (strcmp(key, NUMBERS[i].key) != 0) continue;
        unsigned long long number = strtoull(value, NULL, 10);
        char *field = (char *)&the_card + NUMBERS[i].offset;
        if (NUMBERS[i].wide) {
            *(size_t *)(void *)field = (size_t)number;
        } else {
            *(int *)(void *)field = (int)number;
        }
    }
}

/* CUDA_VISIBLE_DEVICES: the devices before the first number that there is not, in that order. */
static void choose_visible(void) {
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    for (int i = 0; i < the_card.installed; i++) the_card.physical[i] = i;
    the_card.devices = the_card.installed;
    if (!text) return;
    for (the_card.devices = 0; *text && the_card.devices < the_card.installed; the_card.devices++) {
        char *end;
        long number = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',') || number < 0 || number >= the_card.installed) return;
        the_card.physical[the_card.devices] = (int)number;
        text = *end ? end + 1 : end;
    }
}

static void in_child(void) {
    static const pthread_once_t afresh = PTHREAD_ONCE_INIT;
    once = afresh;
}

static void read_card(void) {
    static bool heeds_forks;
    if (!heeds_forks) heeds_forks = !pthread_atfork(NULL, NULL, in_child);
    memset(&the_card, 0, sizeof the_card);
    const char *path = getenv("PROFILER_VIRTUAL_GPU");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file) {
        if (path) fprintf(stderr, "virtual GPU: cannot read %s: no devices\n", path);
        return;
    }
    char line[4200];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        take(line, space + 1);
    }
    fclose(file);
    if (the_card.installed < 0) the_card.installed = 0;
    if (the_card.installed > MAX_DEVICES) the_card.installed = MAX_DEVICES;
    choose_visible();
}

API const struct card *vgpu_card(void) {
    pthread_once(&once, read_card);
    return &the_card;
}

API int vgpu_card_attribute(int attribute, int device, int *value) {
    const struct card *card = vgpu_card();
    if (device < 0 || device >= card->devices) return INVALID_DEVICE;
    if (!value) return INVALID_VALUE;
    switch (attribute) { /* enum cudaDeviceAttr */
    case 1: case 2: case 3: *value = 1024; break;   /* threads of a block, and of its x and y */
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;             /* blocks of a grid */
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break;               /* shared memory of a block, without opting in */
    case 9: *value = 64 << 10; break;               /* constant memory */
    case 10: *value = 32; break;                    /* warp */
    case 11: *value = 2147483647; break;
    case 12: case 82: *value = 65536; break;        /* registers of a block, of a multiprocessor */
    case 13: *value = card->clock_khz; break;
    case 14: *value = 512; break;                   /* alignment of textures */
    case 15: *value = 1; break;
    case 16: *value = card->multiprocessors; break;
    case 19: *value = 1; break;                     /* host memory can be mapped */
    case 31: *value = 1; break;                     /* kernels run beside each other */
    case 32: *value = card->ecc; break;
    case 33: *value = card->physical[device] + 1; break; /* PCI bus */
    case 36: *value = card->memory_clock_khz; break;
    case 37: *value = card->memory_bus_bits; break;
    case 38: *value = (int)card->l2_cache_bytes; break;
    case 39: *value = card->threads_per_multiprocessor; break;
    case 40: *value = card->copy_engines; break;
    case 41: *value = 1; break;                     /* one address space */
    case 51: *value = 32; break;
    case 75: *value = card->major; break;
    case 76: *value = card->minor; break;
    case 78: case 79: case 80: *value = 1; break;   /* priorities; L1 caches */
    case 81: *value = (int)card->shared_memory_per_multiprocessor_bytes; break;
    case 83: case 89: case 90: case 91: case 95: *value = 1; break; /* managed memory .. cooperative launch */
    case 97: *value = (int)card->shared_memory_per_block_optin_bytes; break;
    case 99: case 102: case 103: *value = 1; break; /* host registration; virtual memory management */
    case 106: *value = card->blocks_per_multiprocessor; break;
    case 111: *value = (int)card->reserved_shared_memory_per_block_bytes; break;
    case 115: *value = 1; break;                    /* memory pools */
    case 119: *value = 1; break;                    /* pools by file descriptor */
    case 120: case 127: *value = card->clusters; break; /* clusters; tensor maps */
    case 139: *value = card->pci_device_id << 16 | 0x10de; break;
    case 122: case 123: *value = 1; break;          /* stream memory operations */
    case 125: *value = 1; break;
    case 126: *value = card->major >= 9 ? 4 : 1; break;
    case 129: *value = 1; break;                    /* unified function pointers */
    case 131: case 134: *value = -1; break;         /* no NUMA node of its own */
    default: *value = 0; break;
    }
    return SUCCESS;
}
