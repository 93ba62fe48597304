/* Files in and out: .npy, .pgm/.ppm and raw readers that fill one program input, and a .npy writer.
 * Every function returns false and fills error on failure; nothing is printed here. */
#ifndef GRAPHC_FILES_H
#define GRAPHC_FILES_H

#include "program.h"

struct error {
    char text[1024];
};

/* The content of a file; complete is false when it was longer than the limit it was read with. */
struct bytes {
    unsigned char *data;
    size_t size;
    bool complete;
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
bool fail(struct error *error, const char *format, ...);

bool size_mul(size_t a, size_t b, size_t *product);
bool size_add(size_t a, size_t b, size_t *sum);
size_t dtype_bytes(enum dtype dtype);
const char *dtype_name(enum dtype dtype);
bool tensor_count(const struct tensor *tensor, size_t *elements);
bool tensor_bytes(const struct tensor *tensor, size_t *bytes);

enum { SHAPE_TEXT = 24 * MAX_RANK };
/* "1x1x28x28", or "scalar" for rank 0; returns text. */
const char *shape_text(const int64_t *shape, int rank, char text[SHAPE_TEXT]);

/* path "-" is standard input. Frees nothing on success: the caller frees bytes->data. */
bool read_all(const char *path, size_t limit, struct bytes *bytes, struct error *error);
const char *display_name(const char *path);

/* Fills destination (tensor_bytes of want, in want's dtype and C order) from the file. */
bool read_input(const char *path, const struct tensor *want, void *destination, struct error *error);

/* The formats, each given the whole file; where is the name for messages. */
bool read_npy(const char *where, const struct bytes *file, const struct tensor *want, void *destination,
              struct error *error);
bool read_pnm(const char *where, const struct bytes *file, const struct tensor *want, void *destination,
              struct error *error);

/* Replaces path as a whole or leaves it as it was (a device or pipe is written in place). */
bool write_npy(const char *path, const struct tensor *tensor, const void *data, struct error *error);

#endif
