/* Answers as text and JSON. Numbers in JSON have the digits that bring the same float32 back. */
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEW = 8 };

static double element(const void *data, enum dtype dtype, size_t i) {
    if (dtype == F32)
        return ((const float *)data)[i];
    return dtype == U8 ? ((const unsigned char *)data)[i] : ((const int32_t *)data)[i];
}

/* Length of the well-formed UTF-8 sequence at text, 0 if there is none (RFC 3629: no overlong forms, no surrogates). */
static int utf8_length(const unsigned char *text) {
    int length = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : text[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool outside = (text[0] == 0xed && text[1] > 0x9f) || (text[0] == 0xf4 && text[1] > 0x8f);
    return overlong || outside ? 0 : length;
}

void json_string(FILE *out, const char *text) {
    fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        int length = utf8_length(at);
        if (length == 0)
            fputs("\\ufffd", out);
        else if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else if (*at < ' ')
            fprintf(out, "\\u%04x", *at);
        else
            fwrite(at, 1, (size_t)length, out);
        at += length == 0 ? 1 : length;
    }
    fputc('"', out);
}

/* JSON has no NaN and no infinity: null. */
static void json_number(FILE *out, double value) {
    if (isfinite(value))
        fprintf(out, "%.9g", value);
    else
        fputs("null", out);
}

void json_tensor(FILE *out, const struct tensor *tensor) {
    fputs("{\"name\": ", out);
    json_string(out, tensor->name);
    fprintf(out, ", \"dtype\": \"%s\", \"shape\": [", dtype_name(tensor->dtype));
    for (int i = 0; i < tensor->rank; i++)
        fprintf(out, "%s%" PRId64, i ? ", " : "", tensor->shape[i]);
    fputc(']', out);
}

size_t class_count(void) {
    const struct tensor *output = program.outputs;
    return program.output_count == 1 && output->rank == 2 ? (size_t)output->shape[1] : 0;
}

struct score {
    double value;
    size_t index;
};

/* Highest first, NaN last, the lower class first among equals. */
static int by_score(const void *a, const void *b) {
    const struct score *x = a, *y = b;
    if (isnan(x->value) != isnan(y->value))
        return isnan(x->value) ? 1 : -1;
    if (x->value != y->value && !isnan(x->value))
        return x->value < y->value ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static void print_names(FILE *out, char *const *names) {
    for (int i = 0; i < program.input_count; i++)
        fprintf(out, "%s%s", i ? " " : "", display_name(names[i]));
    if (program.input_count == 0)
        fputs(program.name, out);
}

static void print_class(FILE *out, const struct score *score, struct labels labels, bool json) {
    if (json) {
        fprintf(out, "{\"class\": %zu, ", score->index);
        if (labels.names != NULL) {
            fputs("\"label\": ", out);
            json_string(out, labels.names[score->index]);
            fputs(", ", out);
        }
        fputs("\"score\": ", out);
        json_number(out, score->value);
        fputc('}', out);
    } else if (labels.names != NULL)
        fprintf(out, "%s (class %zu, score %.6g)\n", labels.names[score->index], score->index, score->value);
    else
        fprintf(out, "%zu (score %.6g)\n", score->index, score->value);
}

/* The best classes of every row; scores is room for one row. In JSON "top" is a list of rows. */
static void print_top(FILE *out, const struct session *session, struct score *scores, char *const *names, size_t top,
                      struct labels labels, bool json) {
    const struct tensor *output = program.outputs;
    size_t rows = (size_t)output->shape[0], classes = class_count();
    if (json)
        fputs(", \"top\": [", out);
    for (size_t row = 0; row < rows; row++) {
        for (size_t i = 0; i < classes; i++)
            scores[i] = (struct score){element(session->outputs[0], output->dtype, row * classes + i), i};
        qsort(scores, classes, sizeof *scores, by_score);
        if (json)
            fputs(row ? ", [" : "[", out);
        for (size_t i = 0; i < top && i < classes; i++) {
            if (json) {
                fputs(i ? ", " : "", out);
            } else {
                print_names(out, names);
                fprintf(out, rows > 1 ? "[%zu]: " : ": ", row);
            }
            print_class(out, &scores[i], labels, json);
        }
        if (json)
            fputc(']', out);
    }
    if (json)
        fputc(']', out);
}

static void print_values(FILE *out, const struct session *session, int index, char *const *names) {
    const struct tensor *tensor = &program.outputs[index];
    char shape[SHAPE_TEXT];
    size_t count = 0;
    tensor_count(tensor, &count);
    print_names(out, names);
    fprintf(out, ": %s %s %s:", tensor->name, dtype_name(tensor->dtype),
            shape_text(tensor->shape, tensor->rank, shape));
    for (size_t i = 0; i < count && i < FEW; i++)
        fprintf(out, " %.6g", element(session->outputs[index], tensor->dtype, i));
    if (count > FEW)
        fprintf(out, " ... (%zu values; --output FILE.npy writes them)", count);
    fputc('\n', out);
}

static void json_names(FILE *out, char *const *names) {
    fputs("\"inputs\": [", out);
    for (int i = 0; i < program.input_count; i++) {
        fputs(i ? ", " : "", out);
        json_string(out, names[i]);
    }
    fputc(']', out);
}

static void json_outputs(FILE *out, const struct session *session) {
    fputs(", \"outputs\": [", out);
    for (int o = 0; o < program.output_count; o++) {
        const struct tensor *tensor = &program.outputs[o];
        size_t count = 0;
        tensor_count(tensor, &count);
        fputs(o ? ", " : "", out);
        json_tensor(out, tensor);
        fputs(", \"values\": [", out);
        for (size_t i = 0; i < count; i++) {
            fputs(i ? ", " : "", out);
            json_number(out, element(session->outputs[o], tensor->dtype, i));
        }
        fputs("]}", out);
    }
    fputc(']', out);
}

bool print_answer(FILE *out, const struct session *session, char *const *names, size_t top, struct labels labels,
                  bool json, struct error *error) {
    size_t classes = class_count();
    struct score *scores = calloc(classes + 1, sizeof *scores);
    if (scores == NULL)
        return fail(error, "%s: no memory for %zu scores", program.name, classes);
    if (json) {
        fputc('{', out);
        json_names(out, names);
    }
    if (classes > 0)
        print_top(out, session, scores, names, top, labels, json);
    if (json) {
        json_outputs(out, session);
        fputc('}', out);
    } else if (classes == 0)
        for (int i = 0; i < program.output_count; i++)
            print_values(out, session, i, names);
    free(scores);
    return true;
}

void print_failure(FILE *out, char *const *names, const char *message) {
    fputc('{', out);
    json_names(out, names);
    fputs(", \"error\": ", out);
    json_string(out, message);
    fputc('}', out);
}
