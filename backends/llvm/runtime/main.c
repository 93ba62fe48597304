/* The standalone program: command line in, answers out. Exit status 2 for a bad request or input, 1 for a failure at work. */
#include "limits.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = 0, FAILED = 1, BAD_REQUEST = 2 };

static int complain(int status, const char *text) {
    fprintf(stderr, "%s\n", text);
    return status;
}

/* Lines of a file as labels; the text stays allocated as long as the program runs. */
static bool read_labels(const char *path, struct labels *labels, struct error *error) {
    struct bytes file;
    size_t count = 0, classes = class_count();
    const char **names = calloc(classes, sizeof *names);
    if (names == NULL)
        return fail(error, "%s: no memory for %zu labels", path, classes);
    if (!read_all(path, 1 << 24, &file, error))
        return false;
    if (!file.complete)
        return fail(error, "%s: expected labels, one a line, got more than 16 MiB", path);
    char *at = (char *)file.data, *end = at + file.size;
    while (at < end) {
        char *line = memchr(at, '\n', (size_t)(end - at)), *stop = line != NULL ? line : end;
        char *text = at == stop ? calloc(1, 1) : strndup(at, (size_t)(stop - at - (stop[-1] == '\r')));
        if (text == NULL)
            return fail(error, "%s: no memory for %zu labels", path, classes);
        if (count < classes)
            names[count] = text;
        count++;
        at = stop + 1;
    }
    free(file.data);
    if (count != classes)
        return fail(error, "%s: expected %zu labels, one a line, got %zu", path, classes, count);
    *labels = (struct labels){names, (int)count};
    return true;
}

static bool read_inputs(const struct session *session, char *const *names, struct error *error) {
    for (int i = 0; i < program.input_count; i++)
        if (!read_input(names[i], &program.inputs[i], session->inputs[i], error))
            return false;
    return true;
}

/* FILE.npy for a single array in all, else FILE-1.npy, FILE-2.npy, ... over runs and, inside a run, outputs. */
static bool write_outputs(const struct session *session, const char *path, int run, int runs, struct error *error) {
    size_t size = strlen(path) + 32, stem = strlen(path);
    char *numbered = malloc(size);
    if (numbered == NULL)
        return fail(error, "%s: no memory", path);
    if (stem > 4 && strcmp(path + stem - 4, ".npy") == 0)
        stem -= 4;
    bool done = true;
    for (int o = 0; o < program.output_count && done; o++) {
        if (runs * program.output_count == 1)
            snprintf(numbered, size, "%s", path);
        else
            snprintf(numbered, size, "%.*s-%d%s", (int)stem, path, run * program.output_count + o + 1, path + stem);
        done = write_npy(numbered, &program.outputs[o], session->outputs[o], error);
    }
    free(numbered);
    return done;
}

/* One run: read, compute, write, print. A bad input is told and the other runs go on. */
static int answer(FILE *out, const struct session *session, const struct options *options, struct labels labels,
                  int run, int runs) {
    struct error error = {""};
    char *const *names = options->inputs + (ptrdiff_t)run * program.input_count;
    int status = DONE;
    if (!read_inputs(session, names, &error))
        status = BAD_REQUEST;
    else if (!run_network(session, (const void *const *)session->inputs, &error) ||
             (options->output != NULL && !write_outputs(session, options->output, run, runs, &error)) ||
             !print_answer(out, session, names, options->top > 0 ? (size_t)options->top : 1, labels, options->json,
                           &error))
        status = FAILED;
    if (status != DONE && options->json)
        print_failure(out, names, error.text);
    return status == DONE ? DONE : complain(status, error.text);
}

static int answer_all(FILE *out, const struct session *session, const struct options *options) {
    struct labels labels = {program.label_count > 0 ? program.labels : NULL, program.label_count};
    int runs = program.input_count > 0 ? options->input_count / program.input_count : 1, worst = DONE;
    struct error error;
    if (options->labels != NULL && !read_labels(options->labels, &labels, &error))
        return complain(BAD_REQUEST, error.text);
    if (options->json)
        fputs(", \"results\": [", out);
    for (int run = 0; run < runs; run++) {
        if (options->json && run > 0)
            fputs(", ", out);
        int status = answer(out, session, options, labels, run, runs);
        worst = status > worst ? status : worst;
    }
    if (options->json)
        fputc(']', out);
    return worst;
}

/* Without INPUT the network is timed on zeros. */
static int bench(FILE *out, const struct session *session, const struct options *options) {
    struct error error;
    struct timing timing;
    if (options->input_count > 0 && !read_inputs(session, options->inputs, &error))
        return complain(BAD_REQUEST, error.text);
    if (!time_network(session, options->bench, &timing, &error))
        return complain(FAILED, error.text);
    print_timing(out, session, options->bench, &timing, options->json);
    return DONE;
}

static int profile(FILE *out, const struct session *session, const struct options *options) {
    enum { RUNS = 30 };
    struct error error;
    struct limits limits;
    double *seconds = calloc((size_t)program.kernel_count, sizeof *seconds);
    if (seconds == NULL)
        return complain(FAILED, "no memory for the times of the kernels");
    if (options->input_count > 0 && !read_inputs(session, options->inputs, &error))
        return complain(BAD_REQUEST, error.text);
    if (!time_kernels(session, RUNS, seconds, &error) || !measure_limits(session, &limits, &error))
        return complain(FAILED, error.text);
    print_profile(out, session, &limits, RUNS, seconds, options->json);
    free(seconds);
    return DONE;
}

static int test(FILE *out, const struct session *session, const struct options *options) {
    struct error error, difference = {""};
    bool passed;
    if (!self_test(session, &passed, &difference, &error))
        return complain(FAILED, error.text);
    if (passed || options->json)
        print_self_test(out, passed, difference.text, options->json);
    if (!passed)
        fprintf(stderr, "%s: self-test failed: %s\n", program.name, difference.text);
    return passed ? DONE : FAILED;
}

static int act(FILE *out, const struct session *session, const struct options *options) {
    if (options->selftest)
        return test(out, session, options);
    if (options->bench > 0)
        return bench(out, session, options);
    if (options->profile)
        return profile(out, session, options);
    if (!options->info)
        return answer_all(out, session, options);
    print_info(out, session, options->json);
    return DONE;
}

/* JSON is collected first, so that standard output gets one whole object, or nothing where memory ends. */
static int act_json(const struct session *session, const struct options *options) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return complain(FAILED, strerror(errno));
    fputs("{\"program\": ", out);
    json_string(out, program.name);
    int status = act(out, session, options);
    fputs("}\n", out);
    bool whole = !ferror(out);
    if (fclose(out) != 0 || !whole)
        return complain(FAILED, "no memory for the JSON text");
    fwrite(text, 1, size, stdout);
    free(text);
    return status;
}

static int start(const struct options *options) {
    struct session session;
    struct error error;
    char missing[800];
    const struct cpu_object *object = choose_object(missing, sizeof missing);
    if (object == NULL) {
        fprintf(stderr, "%s: this CPU lacks %s, which this program needs\n", program.name, missing);
        return FAILED;
    }
    if (!open_session(&session, object, options->threads > 0 ? options->threads : program.threads, &error))
        return complain(FAILED, error.text);
    return options->json ? act_json(&session, options) : act(stdout, &session, options);
}

int main(int argc, char **argv) {
    struct options options;
    struct error error;
    const char *command = argc > 0 ? argv[0] : program.name;
    int status = DONE;
    if (!parse_options(argc, argv, &options, &error)) {
        fprintf(stderr, "%s: %s\nTry '%s --help'.\n", program.name, error.text, command);
        return BAD_REQUEST;
    }
    if (options.help)
        print_help(stdout, command);
    else if (options.version)
        printf("%s, built by graphc %s\n", program.name, program.version);
    else
        status = start(&options);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "%s: cannot write to standard output: %s\n", program.name, strerror(errno));
        return status == DONE ? FAILED : status;
    }
    return status;
}
