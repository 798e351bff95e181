/* The cuDNN that is installed: cuDNN 9.8 and later plans for a described device ("deviceless ahead-of-time").
 *
 * Its old API needs a handle, and a handle needs a real driver: only the graph API is passed on (graph.c).
 */
#include "cudnn.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEVICELESS_SINCE = 90800, NO_CUDNN_VERSION = 90100 };
enum { DEVICEPROP_DESCRIPTOR = 38, DEVICEPROP_JSON = 2702, TYPE_CHAR = 24 };

static struct cudnn_library library;
static bool usable;
static size_t version = NO_CUDNN_VERSION;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void say(const char *format, const char *detail) {
    static char text[116];
    static struct journal_entry entry = {text, ASSUMED, 0};
    snprintf(text, sizeof text, format, detail);
    vgpu_journal_count(&entry);
}

static bool find(void *opened, const char *name, void *function) {
    *(void **)function = dlsym(opened, name);
    return *(void **)function != NULL;
}

static bool describe_device(void) {
    char text[2048];
    size_t length = cudnn_device_text(text, sizeof text);
    return length && !library.create_descriptor(DEVICEPROP_DESCRIPTOR, &library.device) &&
           !library.set_attribute(library.device, DEVICEPROP_JSON, TYPE_CHAR, (int64_t)length, text) &&
           !library.finalize(library.device);
}

static void open_library(void) {
    const struct card *card = vgpu_card();
    if (card->cudnn_version) version = (size_t)card->cudnn_version;
    if (!*card->cudnn_library) {
        say("cuDNN is not installed: its convolution workspaces count as 0%s", "");
        return;
    }
    void *opened = dlopen(card->cudnn_library, RTLD_NOW | RTLD_LOCAL);
    size_t (*get_version)(void);
    if (!opened || !find(opened, "cudnnGetVersion", &get_version)) {
        say("cuDNN cannot be loaded: its convolution workspaces count as 0%s", "");
        return;
    }
    version = get_version();
    bool complete = find(opened, "cudnnBackendCreateDescriptor", &library.create_descriptor) &&
                    find(opened, "cudnnBackendDestroyDescriptor", &library.destroy_descriptor) &&
                    find(opened, "cudnnBackendSetAttribute", &library.set_attribute) &&
                    find(opened, "cudnnBackendGetAttribute", &library.get_attribute) &&
                    find(opened, "cudnnBackendFinalize", &library.finalize) &&
                    find(opened, "cudnnGetErrorString", &library.error_text) &&
                    find(opened, "cudnnGetLastErrorString", &library.last_error_text);
    if (version < DEVICELESS_SINCE || !complete) {
        char number[32];
        snprintf(number, sizeof number, "%zu.%zu", version / 10000, version / 100 % 100);
        say("cuDNN %s cannot plan without a device (9.8 can): convolution workspaces count as 0", number);
        return;
    }
    usable = describe_device();
    if (!usable) say("cuDNN does not know this card: its convolution workspaces count as 0%s", "");
}

const struct cudnn_library *cudnn_library(void) {
    pthread_once(&once, open_library);
    return usable ? &library : NULL;
}

size_t cudnn_version(void) {
    pthread_once(&once, open_library);
    return version;
}
