/* One network made ready to run: its memory, the kernels chosen for this CPU, and runs for answers, time and self-test. */
#ifndef GRAPHC_RUN_H
#define GRAPHC_RUN_H

#include "files.h"

struct session {
    const struct cpu_object *object;
    int threads;
    void *arena, *state;
    void **inputs, **outputs; /* program.input_count and program.output_count buffers */
};

struct timing {
    double minimum, median, p90; /* seconds */
    double images_per_second;    /* by the median; images are the first axis of the first input */
};

/* threads 0: every CPU the process may use. */
bool open_session(struct session *session, const struct cpu_object *object, int threads, struct error *error);

/* State begins at its stored value in every run, so an answer depends on its inputs alone. */
bool run_network(const struct session *session, const void *const *inputs, struct error *error);

bool time_network(const struct session *session, int runs, struct timing *timing, struct error *error);

/* Of a clock that never goes back. */
double seconds_now(void);

/* seconds: room for program.kernel_count times, the median of each kernel over `runs` runs of all in order. */
bool time_kernels(const struct session *session, int runs, double *seconds, struct error *error);

/* passed: all stored vectors gave their stored bits and the weights their checksum; if not, difference says where not. */
bool self_test(const struct session *session, bool *passed, struct error *difference, struct error *error);

/* CRC-32 of zlib (polynomial 0xEDB88320). */
uint32_t crc32_of(const unsigned char *data, size_t size);

#endif
