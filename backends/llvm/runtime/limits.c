/* Limits of the machine: two probes of the kernels' own CPU level, run by all threads at once, the best of some rounds. */
#include "limits.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, STEPS = 300000 };

#define MIB ((size_t)1 << 20)
#define READ_FLOATS ((int64_t)8 << 20) /* in one measurement, at least */
#define DRAM_BYTES (192 * MIB)
#define DEFAULT_L2 (MIB / 4)

/* What one thread does. With `times` 0 it computes `count` steps on the numbers, else it reads `count` of them. */
struct share {
    const struct cpu_object *object;
    float *sum, *numbers;
    int64_t count, times;
    struct gate *gate;
    double start, stop;
};

/* Threads arrive, and go together once all are there; or not at all, where one of them could not be had. */
struct gate {
    atomic_int arrived, opened, called_off;
};

static double smaller(double a, double b) {
    return a < b ? a : b;
}

static double greater(double a, double b) {
    return a > b ? a : b;
}

static void *work(void *data) {
    struct share *share = data;
    atomic_fetch_add(&share->gate->arrived, 1);
    while (!share->gate->opened && !share->gate->called_off)
        sched_yield();
    if (share->gate->called_off)
        return NULL;
    share->start = seconds_now();
    if (share->times == 0)
        share->object->peak(share->numbers, share->count);
    else
        share->object->read(share->sum, share->numbers, share->count, share->times);
    share->stop = seconds_now();
    return NULL;
}

/* Seconds from the first start to the last end; below 0 where the threads cannot be had. */
static double together(struct share *shares, int threads) {
    pthread_t ids[threads];
    struct gate gate = {0, 0, 0};
    int made = 1;
    for (int t = 0; t < threads; t++)
        shares[t].gate = &gate;
    while (made < threads && pthread_create(&ids[made], NULL, work, &shares[made]) == 0)
        made++;
    gate.called_off = made < threads;
    while (!gate.called_off && gate.arrived < threads - 1)
        sched_yield();
    gate.opened = 1;
    work(&shares[0]);
    double start = shares[0].start, stop = shares[0].stop;
    for (int t = 1; t < made; t++) {
        pthread_join(ids[t], NULL);
        start = smaller(start, shares[t].start);
        stop = greater(stop, shares[t].stop);
    }
    return gate.called_off ? -1 : stop - start;
}

/* The shortest of some rounds. */
static double best_of(struct share *shares, int threads) {
    double best = together(shares, threads);
    for (int round = 1; round < ROUNDS && best >= 0; round++)
        best = smaller(best, together(shares, threads));
    return best;
}

/* Bytes a second of reading `size` bytes in all; below 0 where there are no threads. */
static double bandwidth(struct share *shares, int threads, size_t size) {
    int64_t step = shares[0].object->read_floats;
    int64_t steps = (int64_t)(size / sizeof(float) / (size_t)threads) / step, count = (steps > 0 ? steps : 1) * step;
    int64_t times = READ_FLOATS / count > 1 ? READ_FLOATS / count : 1;
    for (int t = 0; t < threads; t++) {
        shares[t].count = count;
        shares[t].times = times;
    }
    double seconds = best_of(shares, threads);
    return seconds > 0 ? sizeof(float) * (double)count * (double)times * threads / seconds : seconds;
}

static bool read_line(int index, const char *name, char text[32]) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, name);
    FILE *file = fopen(path, "r");
    bool found = file != NULL && fgets(text, 32, file) != NULL;
    if (file != NULL)
        fclose(file);
    return found;
}

/* Bytes of the first core's data cache of this level; 0 where Linux does not tell. */
static size_t cache_bytes(int level) {
    char text[32];
    for (int index = 0; read_line(index, "level", text); index++) {
        bool wanted = atoi(text) == level && read_line(index, "type", text) && strncmp(text, "Instruction", 11) != 0;
        if (wanted && read_line(index, "size", text) && strchr(text, 'K') != NULL)
            return (size_t)strtoul(text, NULL, 10) << 10;
    }
    return 0;
}

/* Half of a cache is read, as the other half may hold something else; the last level is shared by all threads. */
static bool measure(struct share *shares, int threads, size_t third, size_t far, struct limits *limits) {
    size_t second = (cache_bytes(2) > 0 ? cache_bytes(2) : DEFAULT_L2) * (size_t)threads;
    for (int t = 0; t < threads; t++)
        shares[t].count = STEPS;
    limits->flops = (double)shares[0].object->peak_flops * STEPS * threads / best_of(shares, threads);
    limits->count = 0;
    limits->levels[limits->count++] = (struct level){"L2", (double)second, bandwidth(shares, threads, second / 2)};
    if (third > 2 * second) {
        size_t size = third / 2 > 2 * second ? third / 2 : 2 * second;
        limits->levels[limits->count++] = (struct level){"L3", (double)third, bandwidth(shares, threads, size)};
    }
    limits->levels[limits->count++] = (struct level){"DRAM", INFINITY, bandwidth(shares, threads, far)};
    for (int i = 0; i < limits->count; i++)
        if (limits->levels[i].bytes_per_second <= 0)
            return false;
    return limits->flops > 0;
}

bool measure_limits(const struct session *session, struct limits *limits, struct error *error) {
    const struct cpu_object *object = session->object;
    int threads = session->threads;
    size_t third = cache_bytes(3), far = 4 * third > DRAM_BYTES ? 4 * third : DRAM_BYTES;
    size_t vector = 4 * ALIGNMENT; /* more than any has */
    size_t own = far / (size_t)threads + vector * (size_t)object->peak_flops; /* more than any probe wants */
    own += ALIGNMENT - own % ALIGNMENT;
    struct share *shares = calloc((size_t)threads, sizeof *shares);
    unsigned char *memory = aligned_alloc(ALIGNMENT, own * (size_t)threads);
    bool done = shares != NULL && memory != NULL;
    if (!done)
        fail(error, "%s: no memory to measure this machine's limits", program.name);
    else {
        memset(memory, 0, own * (size_t)threads); /* memory that nobody has written is read from nowhere */
        for (int t = 0; t < threads; t++) {
            unsigned char *at = memory + own * (size_t)t;
            shares[t] = (struct share){.object = object, .sum = (float *)at, .numbers = (float *)(at + vector)};
        }
        done = measure(shares, threads, third, far, limits) ||
               fail(error, "%s: cannot start %d threads to measure this machine's limits", program.name, threads);
    }
    free(memory);
    free(shares);
    return done;
}

double least_seconds(const struct limits *limits, const struct kernel *kernel) {
    int at = 0;
    while (at + 1 < limits->count && (double)kernel->bytes > limits->levels[at].most)
        at++;
    return greater(2 * (double)kernel->macs / limits->flops, (double)kernel->bytes / limits->levels[at].bytes_per_second);
}
