/* What this machine can do at most, measured on as many threads as the network runs on. */
#ifndef GRAPHC_LIMITS_H
#define GRAPHC_LIMITS_H

#include "run.h"

/* A memory that holds up to `most` bytes in all, and how fast they are read. */
struct level {
    const char *name;
    double most, bytes_per_second;
};

struct limits {
    double flops; /* a second, of multiply-adds; one of them is two */
    int count;
    struct level levels[3]; /* the nearest first; the last one holds anything */
};

bool measure_limits(const struct session *session, struct limits *limits, struct error *error);

/* The least seconds a kernel can take: its multiply-adds at the peak, or its buffers read once from the nearest memory
 * that holds them all. */
double least_seconds(const struct limits *limits, const struct kernel *kernel);

#endif
