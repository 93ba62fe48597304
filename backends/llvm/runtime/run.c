/* Memory, runs, timing and self-test of the network described by `program`. */
#include "run.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_BYTES ((size_t)4 << 20)

/* Adds room for bytes at an aligned place. */
static bool place(size_t bytes, size_t *total, size_t *offset) {
    if (!size_add(*total, ALIGNMENT - 1, offset))
        return false;
    *offset -= *offset % ALIGNMENT;
    return size_add(*offset, bytes, total);
}

static bool place_tensors(const struct tensor *tensors, int count, size_t *total, size_t *offsets) {
    for (int i = 0; i < count; i++) {
        size_t bytes;
        if (!tensor_bytes(&tensors[i], &bytes) || !place(bytes, total, &offsets[i]))
            return false;
    }
    return true;
}

static int usable_cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/* One anonymous mapping for everything: pages that are never touched cost nothing. */
bool open_session(struct session *session, const struct cpu_object *object, int threads, struct error *error) {
    size_t total = 0, arena, state, tensors = (size_t)program.input_count + (size_t)program.output_count;
    size_t *offsets = calloc(tensors + 1, sizeof *offsets);
    void **buffers = calloc(tensors + 1, sizeof *buffers);
    if (offsets == NULL || buffers == NULL)
        return fail(error, "%s: no memory", program.name);
    if (!place(program.arena_bytes, &total, &arena) || !place(program.state_bytes, &total, &state) ||
        !place_tensors(program.inputs, program.input_count, &total, offsets) ||
        !place_tensors(program.outputs, program.output_count, &total, offsets + program.input_count) ||
        !size_add(total, ALIGNMENT, &total))
        return fail(error, "%s: the network is too large for this machine", program.name);
    unsigned char *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return fail(error, "%s: cannot reserve %zu bytes of memory: %s", program.name, total, strerror(errno));
#ifdef MADV_HUGEPAGE
    if (total >= HUGE_BYTES)
        madvise(base, total, MADV_HUGEPAGE);
#endif
    for (size_t i = 0; i < tensors; i++)
        buffers[i] = base + offsets[i];
    free(offsets);
    *session = (struct session){.object = object,
                                .threads = threads > 0 ? threads : usable_cpus(),
                                .arena = base + arena,
                                .state = base + state,
                                .inputs = buffers,
                                .outputs = buffers + program.input_count};
    return true;
}

static bool run_on(const struct session *session, const void *const *inputs, struct error *error) {
    int code = session->object->run(program.weights, session->state, inputs, session->outputs, session->arena,
                                    session->threads);
    return code == 0 || fail(error, "%s: the network failed with code %d (too little memory for %d threads?)",
                             program.name, code, session->threads);
}

bool run_network(const struct session *session, const void *const *inputs, struct error *error) {
    if (program.state_bytes > 0)
        memcpy(session->state, program.state, program.state_bytes);
    return run_on(session, inputs, error);
}

double seconds_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bool time_network(const struct session *session, int runs, struct timing *timing, struct error *error) {
    const void *const *inputs = (const void *const *)session->inputs;
    double *seconds = calloc((size_t)runs, sizeof *seconds);
    if (seconds == NULL)
        return fail(error, "%s: no memory for %d timings", program.name, runs);
    int warm_up = runs < 10 ? runs : 10;
    bool done = true;
    for (int i = -warm_up; i < runs && done; i++) {
        if (program.state_bytes > 0)
            memcpy(session->state, program.state, program.state_bytes);
        double start = seconds_now();
        done = run_on(session, inputs, error);
        if (i >= 0)
            seconds[i] = seconds_now() - start;
    }
    qsort(seconds, (size_t)runs, sizeof *seconds, by_value);
    size_t n = (size_t)runs;
    double images = program.input_count > 0 && program.inputs[0].rank > 0 ? (double)program.inputs[0].shape[0] : 1;
    timing->minimum = seconds[0];
    timing->median = (seconds[(n - 1) / 2] + seconds[n / 2]) / 2;
    timing->p90 = seconds[(9 * n + 9) / 10 - 1]; /* nearest rank */
    timing->images_per_second = timing->median > 0 ? images / timing->median : 0;
    free(seconds);
    return done;
}

static bool run_kernel(const struct session *session, int kernel, struct error *error) {
    const void *const *inputs = (const void *const *)session->inputs;
    int code = session->object->step(program.weights, session->state, inputs, session->outputs, session->arena,
                                     session->threads, kernel);
    return code == 0 || fail(error, "%s: kernel %s failed with code %d", program.name, program.kernels[kernel].name, code);
}

bool time_kernels(const struct session *session, int runs, double *seconds, struct error *error) {
    enum { WARM_UP = 3 };
    size_t count = (size_t)program.kernel_count, samples = (size_t)runs;
    double *taken = calloc(count * samples, sizeof *taken);
    if (taken == NULL)
        return fail(error, "%s: no memory for %d timings", program.name, runs);
    bool done = true;
    for (int i = -WARM_UP; i < runs && done; i++) {
        if (program.state_bytes > 0)
            memcpy(session->state, program.state, program.state_bytes);
        for (int k = 0; k < program.kernel_count && done; k++) {
            double start = seconds_now();
            done = run_kernel(session, k, error);
            if (i >= 0)
                taken[(size_t)k * samples + (size_t)i] = seconds_now() - start;
        }
    }
    for (size_t k = 0; k < count; k++) {
        double *own = taken + k * samples;
        qsort(own, samples, sizeof *own, by_value);
        seconds[k] = (own[(samples - 1) / 2] + own[samples / 2]) / 2;
    }
    free(taken);
    return done;
}

uint32_t crc32_of(const unsigned char *data, size_t size) {
    uint32_t table[256], crc = 0xffffffff;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
    }
    for (size_t i = 0; i < size; i++)
        crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
    return ~crc;
}

static void element_text(const void *data, enum dtype dtype, size_t i, char text[32]) {
    if (dtype == F32)
        snprintf(text, 32, "%.9g", (double)((const float *)data)[i]);
    else
        snprintf(text, 32, "%ld", dtype == U8 ? (long)((const unsigned char *)data)[i] : (long)((const int32_t *)data)[i]);
}

/* Compares bits, so that a NaN equals itself and 0 differs from -0. */
static bool same_bits(int vector, int output, const void *stored, const void *got, struct error *difference) {
    const struct tensor *tensor = &program.outputs[output];
    size_t bytes = 0, step = dtype_bytes(tensor->dtype), i = 0;
    tensor_bytes(tensor, &bytes);
    if (memcmp(stored, got, bytes) == 0)
        return true;
    while (memcmp((const unsigned char *)stored + i * step, (const unsigned char *)got + i * step, step) == 0)
        i++;
    char expected[32], actual[32];
    element_text(stored, tensor->dtype, i, expected);
    element_text(got, tensor->dtype, i, actual);
    return fail(difference, "vector %d, output %s, element %zu: expected %s, got %s", vector + 1, tensor->name, i,
                expected, actual);
}

bool self_test(const struct session *session, bool *passed, struct error *difference, struct error *error) {
    int inputs = program.input_count, outputs = program.output_count;
    const void **pointers = calloc((size_t)inputs + 1, sizeof *pointers);
    if (pointers == NULL)
        return fail(error, "%s: no memory", program.name);
    uint32_t crc = crc32_of(program.weights, program.weight_bytes);
    *passed = crc == program.weight_crc || fail(difference, "weights: expected checksum %08lx, got %08lx",
                                                (unsigned long)program.weight_crc, (unsigned long)crc);
    bool done = true;
    for (int v = 0; v < program.vector_count && *passed && done; v++) {
        const size_t *offsets = program.vector_offsets + (ptrdiff_t)v * (inputs + outputs);
        for (int i = 0; i < inputs; i++)
            pointers[i] = program.vectors + offsets[i];
        done = run_network(session, pointers, error);
        for (int i = 0; i < outputs && *passed && done; i++)
            *passed = same_bits(v, i, program.vectors + offsets[inputs + i], session->outputs[i], difference);
    }
    free(pointers);
    return done;
}
