/* What the generated program.c tells the runtime about one compiled network: tensors, weights, kernels per CPU level,
 * test vectors. All of it is constant and lies in read-only data; nothing here is parsed or copied at start. */
#ifndef GRAPHC_PROGRAM_H
#define GRAPHC_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_RANK = 8, ALIGNMENT = 64 };

enum dtype { F32, U8, I32 };

struct tensor {
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[MAX_RANK];
};

/* One bit of CPUID: register 0..3 are EAX EBX ECX EDX; os_state are the bits of XCR0 that the system must have enabled. */
struct feature {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t reg, bit, os_state;
};

typedef int run_function(const void *weights, void *state, const void *const *inputs, void *const *outputs, void *arena,
                         int threads);

/* Runs one kernel, by its number: all of them in order are one run. */
typedef int step_function(const void *weights, void *state, const void *const *inputs, void *const *outputs,
                          void *arena, int threads, int64_t kernel);

/* Multiply-adds in `steps` steps, on some numbers of which the first ones get the sum. */
typedef void peak_function(float *numbers, int64_t steps);

/* Reads `count` floats so many times; sum has room for one vector. */
typedef void read_function(float *sum, const float *from, int64_t count, int64_t times);

struct cpu_object {
    const char *level;
    const struct feature *needs;
    int need_count;
    run_function *run;
    step_function *step; /* NULL, with the two below: none */
    peak_function *peak;
    read_function *read;
    int64_t peak_flops, read_floats; /* operations of one step; what `count` is a multiple of */
};

struct kernel {
    const char *name, *kind;
    uint64_t macs, bytes; /* multiply-adds; size of the buffers it reads and writes */
};

struct program {
    const char *name, *version, *target, *summary;
    const struct tensor *inputs, *outputs;
    int input_count, output_count;
    const unsigned char *weights, *state, *vectors;
    size_t weight_bytes, state_bytes, arena_bytes;
    uint32_t weight_crc;
    const struct cpu_object *objects; /* most demanding first */
    int object_count;
    const struct kernel *kernels;
    int kernel_count;
    const char *const *labels;
    int label_count;
    const size_t *vector_offsets; /* per vector: every input, then every output, as offsets into vectors */
    int vector_count;
    int threads; /* default of --threads; 0: every CPU the process may use */
};

extern const struct program program;

/* cpu.c: the best object this CPU can run. NULL: none; missing then says what the least demanding object lacks. */
const struct cpu_object *choose_object(char *missing, size_t missing_size);

#endif
