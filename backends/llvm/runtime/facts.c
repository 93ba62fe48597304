/* What the program knows of itself: --help, --info, and the results of --bench and --selftest. */
#include "report.h"

#include <inttypes.h>
#include <string.h>

void print_timing(FILE *out, const struct session *session, int runs, const struct timing *timing, bool json) {
    double minimum = 1e3 * timing->minimum, median = 1e3 * timing->median, p90 = 1e3 * timing->p90;
    const char *level = session->object->level;
    if (json)
        fprintf(out,
                ", \"bench\": {\"runs\": %d, \"threads\": %d, \"level\": \"%s\", \"min_ms\": %.6g, \"median_ms\": %.6g, "
                "\"p90_ms\": %.6g, \"images_per_second\": %.6g}",
                runs, session->threads, level, minimum, median, p90, timing->images_per_second);
    else
        fprintf(out, "%s: %d runs, %d thread%s, %s: min %.4g ms, median %.4g ms, p90 %.4g ms, %.6g images/s\n",
                program.name, runs, session->threads, session->threads == 1 ? "" : "s", level, minimum, median, p90,
                timing->images_per_second);
}

void print_self_test(FILE *out, bool passed, const char *difference, bool json) {
    if (json) {
        fprintf(out, ", \"selftest\": {\"vectors\": %d, \"passed\": %s, \"difference\": ", program.vector_count,
                passed ? "true" : "false");
        if (passed)
            fputs("null", out);
        else
            json_string(out, difference);
        fputc('}', out);
    } else
        fprintf(out, "%s: self-test passed: %d vector%s, every bit as at build time\n", program.name,
                program.vector_count, program.vector_count == 1 ? "" : "s");
}

static void json_tensors(FILE *out, const char *key, const struct tensor *tensors, int count) {
    fprintf(out, ", \"%s\": [", key);
    for (int i = 0; i < count; i++) {
        fputs(i ? ", " : "", out);
        json_tensor(out, &tensors[i]);
        fputc('}', out);
    }
    fputc(']', out);
}

static void json_field(FILE *out, const char *key, const char *text) {
    fprintf(out, ", \"%s\": ", key);
    json_string(out, text);
}

static void json_info(FILE *out, const struct session *session, uint32_t crc) {
    json_field(out, "graphc_version", program.version);
    json_field(out, "target", program.target);
    fputs(", \"levels\": [", out);
    for (int i = 0; i < program.object_count; i++) {
        fputs(i ? ", " : "", out);
        json_string(out, program.objects[i].level);
    }
    fputc(']', out);
    json_field(out, "level", session->object->level);
    json_tensors(out, "inputs", program.inputs, program.input_count);
    json_tensors(out, "outputs", program.outputs, program.output_count);
    fprintf(out, ", \"weight_bytes\": %zu, \"weight_crc32\": \"%08lx\", \"weights_intact\": %s", program.weight_bytes,
            (unsigned long)crc, crc == program.weight_crc ? "true" : "false");
    fprintf(out, ", \"state_bytes\": %zu, \"arena_bytes\": %zu, \"threads\": %d", program.state_bytes,
            program.arena_bytes, session->threads);
    json_field(out, "summary", program.summary);
}

static void print_tensors(FILE *out, const char *title, const struct tensor *tensors, int count) {
    char shape[SHAPE_TEXT];
    for (int i = 0; i < count; i++)
        fprintf(out, "%-10s%s %s %s\n", title, tensors[i].name, dtype_name(tensors[i].dtype),
                shape_text(tensors[i].shape, tensors[i].rank, shape));
}

void print_info(FILE *out, const struct session *session, bool json) {
    uint32_t crc = crc32_of(program.weights, program.weight_bytes);
    if (json) {
        json_info(out, session, crc);
        return;
    }
    fprintf(out, "%s\n\nprogram   %s, built by graphc %s\ntarget    %s\nkernels   ", program.summary, program.name,
            program.version, program.target);
    for (int i = 0; i < program.object_count; i++)
        fprintf(out, "%s%s", i ? ", " : "", program.objects[i].level);
    fprintf(out, "; this CPU runs %s\n", session->object->level);
    print_tensors(out, "input", program.inputs, program.input_count);
    print_tensors(out, "output", program.outputs, program.output_count);
    fprintf(out, "weights   %zu bytes, CRC-32 %08lx, ", program.weight_bytes, (unsigned long)crc);
    if (crc == program.weight_crc)
        fputs("as built\n", out);
    else
        fprintf(out, "DAMAGED: built with %08lx\n", (unsigned long)program.weight_crc);
    fprintf(out, "state     %zu bytes\narena     %zu bytes\nthreads   %d\n", program.state_bytes, program.arena_bytes,
            session->threads);
}

/* Both examples need no file: the second feeds zeros through standard input. */
static void print_examples(FILE *out, const char *command) {
    size_t bytes = 0;
    fprintf(out, "\nExamples:\n  %s --bench 100\n", command);
    if (program.input_count == 1 && tensor_bytes(program.inputs, &bytes))
        fprintf(out, "  head -c %zu /dev/zero | %s %s-\n", bytes, command, class_count() > 0 ? "--top 3 " : "");
    else
        fprintf(out, "  %s --info\n", command);
}

void print_help(FILE *out, const char *command) {
    fprintf(out, "Usage: %s [OPTION]... INPUT%s\nRuns the network %s on ", command,
            program.input_count == 1 ? "..." : " (one per program input)...", program.name);
    char shape[SHAPE_TEXT];
    for (int i = 0; i < program.input_count; i++)
        fprintf(out, "%s%s (%s %s)", i ? ", " : "", program.inputs[i].name, dtype_name(program.inputs[i].dtype),
                shape_text(program.inputs[i].shape, program.inputs[i].rank, shape));
    fputs(".\n\nINPUT is a .npy array, a .pgm or .ppm image, raw samples, or - for standard input;\n"
          "its content tells which. The samples of an image go in as 0..255.\n\n"
          "  --top K            print the K best classes (default 1)\n"
          "  --labels FILE      names of the classes, one a line\n"
          "  --json             print one JSON object\n"
          "  --output FILE.npy  write the outputs; several are numbered FILE-1.npy, FILE-2.npy, ...\n"
          "  --threads N        number of threads",
          out);
    if (program.threads > 0)
        fprintf(out, " (default %d)\n", program.threads);
    else
        fputs(" (default: every CPU it may use)\n", out);
    fputs("  --bench N          time N runs\n"
          "  --profile          time every kernel: us, share of all, GFLOP/s, kB that it reaches, GB/s,\n"
          "                     share of what this machine can do at most (waking threads included)\n"
          "  --selftest         run the stored test vectors and compare every bit\n"
          "  --info             describe the network, its kernels and its memory\n"
          "  --help             show this help\n"
          "  --version          show what built it\n\n"
          "Exit status: 0 done, 1 failure at work, 2 bad request or bad input.\n",
          out);
    print_examples(out, command);
}
