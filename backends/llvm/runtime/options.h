/* The command line as data. */
#ifndef GRAPHC_OPTIONS_H
#define GRAPHC_OPTIONS_H

#include "files.h"

struct options {
    bool json, info, selftest, profile, help, version;
    int top, threads, bench; /* 0: not given */
    const char *output, *labels;
    char **inputs; /* the INPUT arguments, moved together inside argv */
    int input_count;
};

/* Options may stand anywhere, as "--top 3" or "--top=3"; after "--" everything is an INPUT. */
bool parse_options(int argc, char **argv, struct options *options, struct error *error);

#endif
