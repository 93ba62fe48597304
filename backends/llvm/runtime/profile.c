/* The result of --profile: every kernel's time beside the least that this machine allows, its roofline. */
#include "report.h"

#include <inttypes.h>
#include <string.h>

static double per_ns(double amount, double seconds) {
    return seconds > 0 ? 1e-9 * amount / seconds : 0;
}

static double of_roofline(const struct limits *limits, const struct kernel *kernel, double seconds) {
    return seconds > 0 ? least_seconds(limits, kernel) / seconds : 0;
}

static void json_profile(FILE *out, const struct session *session, const struct limits *limits, int runs,
                         const double *seconds) {
    fprintf(out, ", \"profile\": {\"runs\": %d, \"threads\": %d, \"level\": \"%s\", \"kernels\": [", runs,
            session->threads, session->object->level);
    for (int k = 0; k < program.kernel_count; k++) {
        const struct kernel *kernel = &program.kernels[k];
        fputs(k ? ", {\"name\": " : "{\"name\": ", out);
        json_string(out, kernel->name);
        fprintf(out, ", \"kind\": \"%s\", \"us\": %.6g, \"macs\": %" PRIu64 ", \"bytes\": %" PRIu64, kernel->kind,
                1e6 * seconds[k], kernel->macs, kernel->bytes);
        fprintf(out, ", \"gflops\": %.6g, \"gigabytes_per_second\": %.6g, \"of_roofline\": %.6g}",
                per_ns(2 * (double)kernel->macs, seconds[k]), per_ns((double)kernel->bytes, seconds[k]),
                of_roofline(limits, kernel, seconds[k]));
    }
    fprintf(out, "], \"limits\": {\"threads\": %d, \"gflops\": %.6g, \"gigabytes_per_second\": {", session->threads,
            1e-9 * limits->flops);
    for (int i = 0; i < limits->count; i++)
        fprintf(out, "%s\"%s\": %.6g", i ? ", " : "", limits->levels[i].name, 1e-9 * limits->levels[i].bytes_per_second);
    fputs("}}}", out);
}

static void print_row(FILE *out, const struct limits *limits, const struct kernel *kernel, double seconds, double whole,
                      int width) {
    double share = whole > 0 ? 100 * seconds / whole : 0, bytes = (double)kernel->bytes;
    fprintf(out, "%-*s  %-9s  %9.1f  %5.1f%%  ", width, kernel->name, kernel->kind, 1e6 * seconds, share);
    if (kernel->macs > 0)
        fprintf(out, "%7.1f", per_ns(2 * (double)kernel->macs, seconds));
    else
        fprintf(out, "%7s", "");
    fprintf(out, "  %9.1f  %6.1f  %10.0f%%\n", 1e-3 * bytes, per_ns(bytes, seconds),
            100 * of_roofline(limits, kernel, seconds));
}

void print_profile(FILE *out, const struct session *session, const struct limits *limits, int runs,
                   const double *seconds, bool json) {
    double whole = 0, least = 0, macs = 0;
    size_t width = strlen("all kernels");
    if (json) {
        json_profile(out, session, limits, runs, seconds);
        return;
    }
    for (int k = 0; k < program.kernel_count; k++) {
        const struct kernel *kernel = &program.kernels[k];
        size_t size = strlen(kernel->name);
        whole += seconds[k];
        least += least_seconds(limits, kernel);
        macs += (double)kernel->macs;
        width = size > width ? size : width;
    }
    fprintf(out, "%-*s  %-9s  %9s  %6s  %7s  %9s  %6s  %11s\n", (int)width, "kernel", "kind", "us", "share", "GFLOP/s",
            "kB", "GB/s", "of roofline");
    for (int k = 0; k < program.kernel_count; k++)
        print_row(out, limits, &program.kernels[k], seconds[k], whole, (int)width);
    fprintf(out, "%-*s  %-9d  %9.1f  %5.1f%%  %7.1f  %9s  %6s  %10.0f%%\n", (int)width, "all kernels",
            program.kernel_count, 1e6 * whole, 100.0, per_ns(2 * macs, whole), "", "",
            whole > 0 ? 100 * least / whole : 0);
    const char *many = session->threads == 1 ? "" : "s";
    fprintf(out, "roofline, %d thread%s: %.0f GFLOP/s of multiply-adds", session->threads, many, 1e-9 * limits->flops);
    for (int i = 0; i < limits->count; i++)
        fprintf(out, ", %s %.0f GB/s", limits->levels[i].name, 1e-9 * limits->levels[i].bytes_per_second);
    fprintf(out, "\n%s: medians of %d runs, %d thread%s, %s\n", program.name, runs, session->threads, many,
            session->object->level);
}
