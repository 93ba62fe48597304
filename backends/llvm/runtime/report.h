/* What the program prints: answers, timings, facts about itself, as text or as one JSON object. */
#ifndef GRAPHC_REPORT_H
#define GRAPHC_REPORT_H

#include "limits.h"

#include <stdio.h>

/* One name per class; names is NULL when classes are plain numbers. */
struct labels {
    const char *const *names;
    int count;
};

/* The number of classes if the program has one output of shape (N, classes), else 0. */
size_t class_count(void);

void print_help(FILE *out, const char *command);

/* Answers of one run. names are the program.input_count inputs as given. json: one object of the list "results".
 * On failure nothing was printed. */
bool print_answer(FILE *out, const struct session *session, char *const *names, size_t top, struct labels labels,
                  bool json, struct error *error);
void print_failure(FILE *out, char *const *names, const char *message);

/* With json, these three print further fields of an object already begun. */
void print_timing(FILE *out, const struct session *session, int runs, const struct timing *timing, bool json);
/* As text a failure is the caller's to tell, on standard error. */
/* seconds: of each of the program's kernels. */
void print_profile(FILE *out, const struct session *session, const struct limits *limits, int runs,
                   const double *seconds, bool json);

void print_self_test(FILE *out, bool passed, const char *difference, bool json);
void print_info(FILE *out, const struct session *session, bool json);

void json_string(FILE *out, const char *text);
/* {"name": ..., "dtype": ..., "shape": [...] without the closing brace. */
void json_tensor(FILE *out, const struct tensor *tensor);

#endif
