/* A CUDA driver with one GPU whose memory is the host's and whose streams run at once. What pycuda needs beyond this is generated
   beside it and fails. SREDGE_NO_GPU in the environment: a driver without a GPU; SREDGE_SLOW_COPIES: each takes 20 ms. A copy or an
   allocation without a current context is an error, as it is on a GPU, and so is a copy from or to memory that is not pinned.
   What is asked of it fails once, out of memory, at the call that standin_fail_at counts down to; what gives back does not. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900 };
#define DEPTH 16
static __thread void *contexts[DEPTH];
static __thread int depth, capturing; /* the number of the graph that this thread captures */
static int graphs, graphs_left, launches, allocations, allocated, streams, retained, objects, dropped_outside, until_failure;
#define PINNED 64 /* pieces of the host's memory at a time */
static struct { char *start; size_t size; } pinned[PINNED];
static void (*launch)(int);
static int primary;

int standin_fails(void) { return until_failure > 0 && --until_failure == 0; }
#define MAY_FAIL if (standin_fails()) return OUT_OF_MEMORY
#define NEEDS_CONTEXT if (depth == 0) return INVALID_CONTEXT

static int is_pinned(const char *from, size_t size) {
    for (int i = 0; i < PINNED; i++)
        if (pinned[i].start && from >= pinned[i].start && from + size <= pinned[i].start + pinned[i].size) return 1;
    return 0;
}

static void copy(void *to, const void *from, size_t size) {
    struct timespec pause = {0, 20000000};
    if (getenv("SREDGE_SLOW_COPIES")) nanosleep(&pause, 0);
    memcpy(to, from, size);
}

int cuInit(unsigned flags) { MAY_FAIL; return getenv("SREDGE_NO_GPU") ? NO_DEVICE : OK; }
int cuDriverGetVersion(int *version) { MAY_FAIL; *version = 13000; return OK; }
int cuGetErrorString(int error, const char **text) {
    *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : error == INVALID_CONTEXT ? "invalid device context" : "error";
    return OK;
}
int cuDeviceGetCount(int *count) { MAY_FAIL; *count = 1; return OK; }
int cuDeviceGet(int *device, int index) { MAY_FAIL; *device = index; return index == 0 ? OK : INVALID_VALUE; }
int cuDeviceGetName(char *name, int length, int device) { MAY_FAIL; strncpy(name, "Stand-In GPU", length); return OK; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { MAY_FAIL; *major = 8; *minor = 7; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { MAY_FAIL; *context = &primary; retained++; return OK; }
/* "Unlike cuCtxDestroy() this method does not pop the context from stack in any circumstances": the driver's documentation. */
int cuDevicePrimaryCtxRelease_v2(int device) { if (!retained) return INVALID_CONTEXT; retained--; return OK; }
int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
int cuCtxPushCurrent_v2(void *context) {
    MAY_FAIL;
    if (depth == DEPTH) return INVALID_CONTEXT;
    contexts[depth++] = context;
    return OK;
}
int cuCtxPopCurrent_v2(void **context) { NEEDS_CONTEXT; *context = contexts[--depth]; return OK; }
int cuStreamCreate(void **stream, unsigned flags) { NEEDS_CONTEXT; MAY_FAIL; *stream = malloc(1); streams++; return OK; }
int cuStreamDestroy_v2(void *stream) { NEEDS_CONTEXT; free(stream); streams--; return OK; }
int cuStreamSynchronize(void *stream) { NEEDS_CONTEXT; return capturing ? CAPTURE_UNSUPPORTED : OK; }
int cuMemAlloc_v2(uint64_t *pointer, size_t size) {
    NEEDS_CONTEXT;
    MAY_FAIL;
    *pointer = (uint64_t)(uintptr_t)malloc(size);
    allocated++, allocations++;
    return OK;
}
int cuMemFree_v2(uint64_t pointer) { NEEDS_CONTEXT; free((void *)(uintptr_t)pointer); allocated--; return OK; }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    NEEDS_CONTEXT;
    MAY_FAIL;
    int free_place = 0;
    while (free_place < PINNED && !__sync_bool_compare_and_swap(&pinned[free_place].size, 0, size)) free_place++;
    if (free_place == PINNED) return INVALID_VALUE;
    *pointer = pinned[free_place].start = malloc(size);
    allocated++, allocations++;
    return OK;
}
int cuMemFreeHost(void *pointer) {
    NEEDS_CONTEXT;
    for (int i = 0; i < PINNED; i++)
        if (pinned[i].start == pointer) pinned[i].start = 0, pinned[i].size = 0;
    free(pointer);
    allocated--;
    return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    NEEDS_CONTEXT;
    MAY_FAIL;
    if (!is_pinned(from, size)) return INVALID_VALUE;
    copy((void *)(uintptr_t)to, from, size);
    return OK;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    NEEDS_CONTEXT;
    MAY_FAIL;
    if (!is_pinned(to, size)) return INVALID_VALUE;
    copy(to, (void *)(uintptr_t)from, size);
    return OK;
}
int cuEventCreate(void **event, unsigned flags) { NEEDS_CONTEXT; *event = calloc(1, sizeof(struct timespec)); return OK; }
int cuEventDestroy_v2(void *event) { NEEDS_CONTEXT; free(event); return OK; }
int cuEventRecord(void *event, void *stream) { NEEDS_CONTEXT; clock_gettime(CLOCK_MONOTONIC, event); return OK; }
int cuEventSynchronize(void *event) { NEEDS_CONTEXT; return OK; }
int cuEventElapsedTime_v2(float *ms, void *start, void *end) {
    struct timespec *a = start, *b = end;
    *ms = (b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) / 1e6;
    return OK;
}
int cuEventElapsedTime(float *ms, void *start, void *end) { return cuEventElapsedTime_v2(ms, start, end); }

/* A graph is a number; what it launches is known to whoever sets `launch`. */
int cuStreamBeginCapture_v2(void *stream, int mode) {
    NEEDS_CONTEXT;
    MAY_FAIL;
    if (getenv("SREDGE_NO_CAPTURE")) return CAPTURE_UNSUPPORTED;
    capturing = __sync_add_and_fetch(&graphs, 1);
    return OK;
}
int cuStreamEndCapture(void *stream, void **graph) {
    *graph = (void *)(intptr_t)capturing;
    graphs_left += capturing != 0;
    capturing = 0;
    return *graph ? OK : CAPTURE_UNSUPPORTED;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) { MAY_FAIL; *exec = graph; graphs_left++; return OK; }
int cuGraphLaunch(void *exec, void *stream) {
    NEEDS_CONTEXT;
    if (!launch || !exec) return NOT_FOUND;
    launches++;
    launch((int)(intptr_t)exec);
    return OK;
}
int cuGraphExecDestroy(void *exec) { if (!exec) return NOT_FOUND; graphs_left--; return OK; }
int cuGraphDestroy(void *graph) { if (!graph) return NOT_FOUND; graphs_left--; return OK; }

int standin_capturing(void) { return capturing; }
void standin_set_launch(void (*function)(int)) { launch = function; }
int standin_has_context(void) { return depth > 0; }
int standin_launches(void) { return launches; }
int standin_allocations(void) { return allocations; }
/* An object of TensorRT made (1) or dropped (-1). */
void standin_object(int count) { objects += count; dropped_outside += count < 0 && !(depth && retained); }
void standin_fail_at(int calls) { until_failure = calls; }
int standin_waits_to_fail(void) { return until_failure; }
int standin_retained(void) { return retained; }
int standin_dropped_outside(void) { return dropped_outside; }
int standin_left_over(void) { return allocated + streams + objects + graphs_left; }
