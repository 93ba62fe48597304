/* Parses and checks the command line: one table row per option, then the rules between options. */
#include "options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum kind { FLAG, NUMBER, TEXT };

static const struct option {
    const char *name;
    enum kind kind;
    size_t field;
    long maximum; /* of a NUMBER; the least is 1 */
} table[] = {
    {"--top", NUMBER, offsetof(struct options, top), 1000000},
    {"--json", FLAG, offsetof(struct options, json), 0},
    {"--output", TEXT, offsetof(struct options, output), 0},
    {"--threads", NUMBER, offsetof(struct options, threads), 1024},
    {"--bench", NUMBER, offsetof(struct options, bench), 100000000},
    {"--info", FLAG, offsetof(struct options, info), 0},
    {"--selftest", FLAG, offsetof(struct options, selftest), 0},
    {"--profile", FLAG, offsetof(struct options, profile), 0},
    {"--labels", TEXT, offsetof(struct options, labels), 0},
    {"--help", FLAG, offsetof(struct options, help), 0},
    {"--version", FLAG, offsetof(struct options, version), 0},
};

static const struct option *find_option(const char *argument, size_t name_size) {
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strlen(table[i].name) == name_size && memcmp(table[i].name, argument, name_size) == 0)
            return &table[i];
    return NULL;
}

static bool set_value(const struct option *option, const char *value, struct options *options, struct error *error) {
    void *field = (char *)options + option->field;
    if (option->kind == TEXT) {
        *(const char **)field = value;
        return *value != '\0' || fail(error, "%s: expected a file name, got nothing", option->name);
    }
    char *end;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (errno != 0 || *value < '0' || *value > '9' || *end != '\0' || number < 1 || number > option->maximum)
        return fail(error, "%s: expected a whole number from 1 to %ld, got '%s'", option->name, option->maximum, value);
    *(int *)field = (int)number;
    return true;
}

/* Reads the option at argv[*at] and, if it takes one, its value; leaves *at on the last argument used. */
static bool parse_option(int argc, char **argv, int *at, struct options *options, struct error *error) {
    const char *argument = argv[*at], *equals = strchr(argument, '=');
    if (strcmp(argument, "-h") == 0)
        argument = "--help";
    size_t size = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
    const struct option *option = find_option(argument, size);
    if (option == NULL)
        return fail(error, "unknown option '%.*s'", (int)(size < 200 ? size : 200), argument);
    if (option->kind == FLAG) {
        *(bool *)((char *)options + option->field) = true;
        return equals == NULL || fail(error, "%s: takes no value, got '%s'", option->name, equals + 1);
    }
    if (equals != NULL)
        return set_value(option, equals + 1, options, error);
    if (++*at == argc)
        return fail(error, "%s: expected a value, got nothing", option->name);
    return set_value(option, argv[*at], options, error);
}

static bool check_classes(const struct options *options, struct error *error) {
    bool classes = program.output_count == 1 && program.outputs[0].rank == 2;
    const char *wrong = options->top > 0 ? "--top" : options->labels != NULL ? "--labels" : NULL;
    return classes || wrong == NULL ||
           fail(error, "%s: needs a program with one output of shape (N, classes), which this is not", wrong);
}

static bool check_inputs(const struct options *options, struct error *error) {
    int given = options->input_count, wanted = program.input_count, standard = 0;
    for (int i = 0; i < given; i++)
        standard += strcmp(options->inputs[i], "-") == 0;
    if (standard > 1)
        return fail(error, "-: standard input can be read once, got it %d times", standard);
    bool timed = options->bench > 0 || options->profile;
    if (timed && given == 0)
        return true;
    if (timed && given != wanted)
        return fail(error, "%s: expected no INPUT or %d, got %d", options->profile ? "--profile" : "--bench", wanted,
                    given);
    if (wanted == 0)
        return given == 0 || fail(error, "expected no INPUT, got %d", given);
    if (given == 0)
        return fail(error, "expected an INPUT, got none");
    return given % wanted == 0 || fail(error, "expected %d INPUTs for each run, got %d", wanted, given);
}

static bool check_options(const struct options *options, struct error *error) {
    int actions = options->info + options->selftest + (options->bench > 0) + options->profile;
    if (options->help || options->version)
        return true;
    if (actions > 1)
        return fail(error, "expected one of --info, --selftest, --bench and --profile, got %d of them", actions);
    if (actions == 1 && options->output != NULL)
        return fail(error, "--output: goes with INPUTs, not with --info, --selftest, --bench or --profile");
    if (options->profile && program.kernel_count == 0)
        return fail(error, "--profile: this program does not know its kernels");
    if ((options->info || options->selftest) && options->input_count > 0)
        return fail(error, "%s: expected no INPUT, got '%s'", options->info ? "--info" : "--selftest",
                    options->inputs[0]);
    if (options->info || options->selftest)
        return true;
    return check_classes(options, error) && check_inputs(options, error);
}

bool parse_options(int argc, char **argv, struct options *options, struct error *error) {
    *options = (struct options){.inputs = argv + 1};
    bool only_inputs = false;
    for (int i = 1; i < argc; i++) {
        if (only_inputs || argv[i][0] != '-' || argv[i][1] == '\0')
            options->inputs[options->input_count++] = argv[i];
        else if (strcmp(argv[i], "--") == 0)
            only_inputs = true;
        else if (!parse_option(argc, argv, &i, options, error))
            return false;
    }
    return check_options(options, error);
}
