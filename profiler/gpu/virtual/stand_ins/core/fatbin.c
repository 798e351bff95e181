/* What a compiled kernel needs, from the metadata that the compiler left in the program's fat binary.
 *
 * A fat binary holds the same kernels for several GPUs, each an ELF file (of one registered program text) or
 * PTX, often compressed: LZ4 until CUDA 12.7, Zstandard since, which the system's libzstd.so.1 reads.
 */
#include "fatbin.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#define WRAPPER_MAGIC 0x466243b1u
#define FAT_MAGIC 0xba55ed50u
#define MOST_BYTES ((uint64_t)512 << 20)

struct wrapper {
    uint32_t magic, version;
    const char *data;
};
struct fat_header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
};
enum { PTX = 1, ELF = 2 };
enum { LZ4 = 0x2000, ZSTD = 0x8000, THIS_CARD_ONLY = 0x100000 };
struct entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t compressed_bytes, unknown;
    uint16_t minor, major;
    uint32_t architecture, name_offset, name_bytes;
    uint64_t flags, reserved, plain_bytes;
};

/* The best entry for the card: of its own architecture, or the newest older one of its generation. */
static const struct entry *best_entry(const struct wrapper *wrapper) {
    const struct card *card = vgpu_card();
    uint32_t wanted = (uint32_t)(card->major * 10 + card->minor);
    if (!wrapper || wrapper->magic != WRAPPER_MAGIC) return NULL;
    const struct fat_header *header = (const void *)wrapper->data;
    if (header->magic != FAT_MAGIC) return NULL;
    const char *at = wrapper->data + header->header_bytes, *end = at + header->bytes;
    const struct entry *best = NULL, *lowest = NULL;
    while (at + sizeof *best <= end) {
        const struct entry *entry = (const void *)at;
        if (!entry->header_bytes || entry->bytes > (uint64_t)(end - at)) break;
        bool for_this = entry->flags & THIS_CARD_ONLY ? entry->architecture == wanted
                                                       : entry->architecture <= wanted;
        if (entry->kind == ELF && for_this && entry->architecture / 10 == wanted / 10 &&
            (!best || entry->architecture >= best->architecture)) {
            best = entry;
        }
        if (entry->kind == ELF && (!lowest || entry->architecture < lowest->architecture)) lowest = entry;
        at += entry->header_bytes + entry->bytes;
    }
    if (!best && lowest) {
        JOURNAL(ASSUMED, "this build has no kernels for the card, which would refuse them: those of another are taken");
    }
    return best ? best : lowest;
}

/* LZ4's block format: literals, then a match of at least 4 bytes; lengths of 15 go on in further bytes. */
static size_t lz4(const unsigned char *from, size_t bytes, unsigned char *to, size_t room) {
    const unsigned char *end = from + bytes;
    size_t written = 0;
    while (from < end) {
        unsigned token = *from++;
        size_t length = token >> 4;
        for (unsigned more = 255; length >= 15 && more == 255 && from < end;) length += more = *from++;
        if (length > (size_t)(end - from) || length > room - written) return 0;
        memcpy(to + written, from, length);
        written += length;
        from += length;
        if (end - from < 2) break; /* the last sequence has no match */
        size_t offset = from[0] | (size_t)from[1] << 8;
        from += 2;
        length = token & 15;
        for (unsigned more = 255; length >= 15 && more == 255 && from < end;) length += more = *from++;
        length += 4;
        if (!offset || offset > written || length > room - written) return 0;
        for (; length; length--, written++) to[written] = to[written - offset];
    }
    return written;
}

static size_t zstd(const void *from, size_t bytes, void *to, size_t room) {
    static size_t (*decompress)(void *, size_t, const void *, size_t);
    if (!decompress) {
        void *library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
        void *symbol = library ? dlsym(library, "ZSTD_decompress") : NULL;
        if (!symbol) return 0;
        memcpy(&decompress, &symbol, sizeof decompress);
    }
    return decompress(to, room, from, bytes);
}

/* The entry's ELF file in memory of its own, or NULL. */
static char *plain_elf(const struct entry *entry, size_t *bytes) {
    const char *payload = (const char *)entry + entry->header_bytes;
    bool compressed = entry->flags & (LZ4 | ZSTD);
    *bytes = compressed ? entry->plain_bytes : entry->bytes;
    if (entry->compressed_bytes > entry->bytes || *bytes > MOST_BYTES || *bytes < sizeof(Elf64_Ehdr)) return NULL;
    char *elf = malloc(*bytes);
    if (!elf) return NULL;
    size_t got = *bytes;
    if (!compressed) {
        memcpy(elf, payload, *bytes);
    } else if (entry->flags & LZ4) {
        got = lz4((const void *)payload, entry->compressed_bytes, (void *)elf, *bytes);
    } else {
        got = zstd(payload, entry->compressed_bytes, elf, *bytes);
    }
    if (got == *bytes && !memcmp(elf, ELFMAG, SELFMAG)) return elf;
    free(elf);
    return NULL;
}

/* Attributes that the compiler leaves in .nv.info: a kind of value, a number, and two bytes or a size. */
enum { MAX_THREADS = 0x05, REGISTER_COUNT = 0x2f, SIZED = 4 };

struct kernel_table {
    const void *wrapper;
    int architecture;
    size_t count;
    struct compiled_kernel {
        char *name;
        int registers, max_threads;
        size_t shared_bytes;
    } * kernels;
    struct kernel_table *next;
};

static struct compiled_kernel *in_table(struct kernel_table *table, const char *name, bool add) {
    for (size_t i = 0; i < table->count; i++) {
        if (!strcmp(table->kernels[i].name, name)) return &table->kernels[i];
    }
    if (!add) return NULL;
    struct compiled_kernel *grown = realloc(table->kernels, (table->count + 1) * sizeof *grown);
    char *copy = grown ? strdup(name) : NULL;
    if (grown) table->kernels = grown;
    if (!copy) return NULL;
    grown[table->count] = (struct compiled_kernel){.name = copy};
    return &grown[table->count++];
}

static const char *after(const char *text, const char *beginning) {
    size_t length = strlen(beginning);
    return strncmp(text, beginning, length) ? NULL : text + length;
}

/* A section's bytes, or NULL where the file is not whole. */
struct part {
    const char *data;
    size_t bytes;
};
static struct part part_of(const char *elf, size_t bytes, const Elf64_Shdr *section) {
    if (section->sh_offset > bytes || section->sh_size > bytes - section->sh_offset) return (struct part){NULL, 0};
    return (struct part){elf + section->sh_offset, section->sh_size};
}

/* A name in a table of strings, or "" where it is outside. */
static const char *text_at(struct part strings, size_t at) {
    bool inside = strings.data && at < strings.bytes && !strings.data[strings.bytes - 1];
    return inside ? strings.data + at : "";
}

/* Where the value of the next attribute of that number and size stands, from *at on; NULL if there is none. */
static const char *next_attribute(struct part info, int number, size_t size, size_t *at) {
    while (info.data && *at + 4 <= info.bytes) {
        const unsigned char *head = (const void *)(info.data + *at);
        size_t bytes = head[0] == SIZED ? head[2] | (size_t)head[3] << 8 : 0;
        const char *value = info.data + *at + 4;
        *at += 4 + bytes;
        if (head[0] == SIZED && head[1] == number && bytes == size && *at <= info.bytes) return value;
    }
    return NULL;
}

static void read_registers(struct kernel_table *table, struct part info, struct part symbols, struct part names) {
    size_t at = 0;
    for (const char *value; (value = next_attribute(info, REGISTER_COUNT, 8, &at));) {
        uint32_t pair[2]; /* a symbol, its registers */
        Elf64_Sym symbol;
        memcpy(pair, value, sizeof pair);
        if (!symbols.data || (pair[0] + (size_t)1) * sizeof symbol > symbols.bytes) continue;
        memcpy(&symbol, symbols.data + pair[0] * sizeof symbol, sizeof symbol);
        struct compiled_kernel *found = in_table(table, text_at(names, symbol.st_name), false);
        if (found) found->registers = (int)pair[1];
    }
}

static void read_section(struct kernel_table *table, const char *name, struct part part) {
    struct compiled_kernel *found;
    const char *kernel;
    size_t at = 0;
    if ((kernel = after(name, ".text."))) {
        in_table(table, kernel, true);
    } else if ((kernel = after(name, ".nv.shared."))) {
        if ((found = in_table(table, kernel, true))) found->shared_bytes = part.bytes;
    } else if ((kernel = after(name, ".nv.info."))) {
        const char *value = next_attribute(part, MAX_THREADS, 12, &at);
        uint32_t threads[3];
        if (value && (found = in_table(table, kernel, true))) {
            memcpy(threads, value, sizeof threads);
            found->max_threads = (int)(threads[0] * threads[1] * threads[2]);
        }
    }
}

static void read_elf(struct kernel_table *table, const char *elf, size_t bytes) {
    const Elf64_Ehdr *header = (const void *)elf;
    if (header->e_shentsize != sizeof(Elf64_Shdr) || header->e_shstrndx >= header->e_shnum ||
        header->e_shoff > bytes || header->e_shnum * sizeof(Elf64_Shdr) > bytes - header->e_shoff ||
        header->e_shoff % _Alignof(Elf64_Shdr)) {
        return;
    }
    const Elf64_Shdr *sections = (const void *)(elf + header->e_shoff);
    struct part names = part_of(elf, bytes, &sections[header->e_shstrndx]);
    struct part info = {NULL, 0}, symbols = {NULL, 0}, strings = {NULL, 0};
    for (int i = 0; i < header->e_shnum; i++) {
        const char *name = text_at(names, sections[i].sh_name);
        struct part part = part_of(elf, bytes, &sections[i]);
        if (sections[i].sh_type == SHT_NOBITS) part.bytes = sections[i].sh_size; /* shared memory: no content */
        if (!strcmp(name, ".nv.info")) info = part;
        if (!strcmp(name, ".symtab")) symbols = part;
        if (!strcmp(name, ".strtab")) strings = part;
        read_section(table, name, part);
    }
    read_registers(table, info, symbols, strings);
}

static struct kernel_table *tables;

/* With the lock held. */
static struct kernel_table *table_of(const void *wrapper) {
    for (struct kernel_table *table = tables; table; table = table->next) {
        if (table->wrapper == wrapper) return table;
    }
    const struct entry *entry = best_entry(wrapper);
    struct kernel_table *table = entry ? calloc(1, sizeof *table) : NULL;
    if (!table) return NULL;
    table->wrapper = wrapper;
    table->architecture = (int)entry->architecture;
    table->next = tables;
    tables = table;
    size_t bytes;
    char *elf = plain_elf(entry, &bytes);
    if (elf) read_elf(table, elf, bytes);
    free(elf);
    return table;
}

/* How long an ELF file in memory is, by its tables; 0: none. */
static size_t elf_bytes(const char *elf) {
    const Elf64_Ehdr *header = (const void *)elf;
    uint64_t end = header->e_shoff + (uint64_t)header->e_shnum * header->e_shentsize;
    if (header->e_shentsize != sizeof(Elf64_Shdr) || end > MOST_BYTES || header->e_shoff % _Alignof(Elf64_Shdr)) return 0;
    const Elf64_Shdr *sections = (const void *)(elf + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        uint64_t last = sections[i].sh_type == SHT_NOBITS ? 0 : sections[i].sh_offset + sections[i].sh_size;
        if (last > end && last <= MOST_BYTES) end = last;
    }
    return end;
}

/* Where the compiler writes the architecture, 80 for 8.0: moved with the version of its ELF format. */
static int elf_architecture(const char *elf) {
    const Elf64_Ehdr *header = (const void *)elf;
    return (int)(header->e_ident[EI_ABIVERSION] >= 8 ? header->e_flags >> 8 : header->e_flags) & 0xff;
}

const void *fat_binary_of_image(const void *image) {
    struct wrapper wrapper = {WRAPPER_MAGIC, 1, image};
    const struct entry *entry = NULL;
    uint32_t magic;
    size_t bytes = 0;
    memcpy(&magic, image, sizeof magic);
    bool elf = !memcmp(image, ELFMAG, SELFMAG);
    if (!elf && (magic == WRAPPER_MAGIC || magic == FAT_MAGIC)) {
        entry = best_entry(magic == FAT_MAGIC ? &wrapper : image);
    }
    struct kernel_table *table = elf || entry ? calloc(1, sizeof *table) : NULL;
    if (!table) return NULL;
    char *plain = entry ? plain_elf(entry, &bytes) : NULL;
    const char *of = elf ? image : plain;
    if (elf) bytes = elf_bytes(of);
    if (of && bytes) {
        table->architecture = elf_architecture(of);
        read_elf(table, of, bytes);
    }
    free(plain);
    table->wrapper = table;
    table->next = tables;
    tables = table;
    return table;
}

const void *fat_binary_if_one(const void *module) {
    for (struct kernel_table *table = tables; table; table = table->next) {
        if (table == module) return module;
    }
    return NULL;
}

bool fat_binary_attributes(const void *wrapper, const char *name, struct kernel_attributes *attributes) {
    struct kernel_table *table = table_of(wrapper);
    if (!table) return false;
    attributes->binary_version = table->architecture;
    const struct compiled_kernel *kernel = in_table(table, name, false);
    if (!kernel) return false;
    attributes->registers = kernel->registers;
    attributes->shared_bytes = kernel->shared_bytes;
    attributes->max_threads_per_block = kernel->max_threads;
    return true;
}
