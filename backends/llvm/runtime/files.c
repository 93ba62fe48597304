/* Whole-file reading, the choice of format by magic bytes, raw samples, sizes with overflow checks, messages. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are read and written in the host's byte order");

bool fail(struct error *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return false;
}

bool size_mul(size_t a, size_t b, size_t *product) {
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *product = a * b;
    return true;
}

bool size_add(size_t a, size_t b, size_t *sum) {
    if (b > SIZE_MAX - a)
        return false;
    *sum = a + b;
    return true;
}

size_t dtype_bytes(enum dtype dtype) {
    return dtype == U8 ? 1 : 4;
}

const char *dtype_name(enum dtype dtype) {
    static const char *const names[] = {[F32] = "float32", [U8] = "uint8", [I32] = "int32"};
    return names[dtype];
}

bool tensor_count(const struct tensor *tensor, size_t *elements) {
    *elements = 1;
    for (int i = 0; i < tensor->rank; i++)
        if (tensor->shape[i] < 0 || !size_mul(*elements, (size_t)tensor->shape[i], elements))
            return false;
    return true;
}

bool tensor_bytes(const struct tensor *tensor, size_t *bytes) {
    return tensor_count(tensor, bytes) && size_mul(*bytes, dtype_bytes(tensor->dtype), bytes);
}

const char *shape_text(const int64_t *shape, int rank, char text[SHAPE_TEXT]) {
    size_t used = 0;
    snprintf(text, SHAPE_TEXT, "scalar");
    for (int i = 0; i < rank; i++)
        used += (size_t)snprintf(text + used, SHAPE_TEXT - used, "%s%lld", i ? "x" : "", (long long)shape[i]);
    return text;
}

const char *display_name(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

static bool read_descriptor(int fd, const char *where, size_t limit, struct bytes *bytes, struct error *error) {
    struct stat status;
    size_t capacity = 1 << 16;
    /* One byte more than the file holds, so that its end is seen without growing. */
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size >= 0)
        capacity = (size_t)status.st_size + 1;
    for (;;) {
        if (capacity > limit + 1)
            capacity = limit + 1;
        unsigned char *larger = realloc(bytes->data, capacity);
        if (larger == NULL)
            return fail(error, "%s: no memory for %zu bytes", where, capacity);
        bytes->data = larger;
        while (bytes->size < capacity) {
            ssize_t got = read(fd, bytes->data + bytes->size, capacity - bytes->size);
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0)
                return fail(error, "%s: cannot be read: %s", where, strerror(errno));
            if (got == 0)
                return true;
            bytes->size += (size_t)got;
        }
        if (bytes->size > limit) {
            bytes->size = limit;
            bytes->complete = false;
            return true;
        }
        capacity = capacity > limit / 2 ? limit + 1 : 2 * capacity;
    }
}

bool read_all(const char *path, size_t limit, struct bytes *bytes, struct error *error) {
    *bytes = (struct bytes){.data = NULL, .size = 0, .complete = true};
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    bool done = read_descriptor(fd, display_name(path), limit, bytes, error);
    if (!standard)
        close(fd);
    if (!done) {
        free(bytes->data);
        bytes->data = NULL;
        return false;
    }
    /* No byte behind the content, so that a sanitizer sees a reader that goes past it. */
    unsigned char *exact = realloc(bytes->data, bytes->size + (bytes->size == 0));
    bytes->data = exact != NULL ? exact : bytes->data;
    return true;
}

static bool begins(const struct bytes *file, const char *magic, size_t size) {
    return file->size >= size && memcmp(file->data, magic, size) == 0;
}

/* Formats people try first and that are not read: named, so that the message can say what to do. */
static const char *foreign_format(const struct bytes *file) {
    static const struct {
        const char *magic;
        size_t size;
        const char *name;
    } known[] = {{"\x89PNG", 4, "a PNG image"}, {"\xff\xd8\xff", 3, "a JPEG image"}, {"GIF8", 4, "a GIF image"},
                 {"BM", 2, "a BMP image"},      {"RIFF", 4, "a RIFF (WebP) file"},   {"PK\x03\x04", 4, "a zip (.npz) file"},
                 {"\x1f\x8b", 2, "a gzip file"}, {"P1", 2, "a PBM bitmap"},           {"P4", 2, "a PBM bitmap"},
                 {"P7", 2, "a PAM image"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (begins(file, known[i].magic, known[i].size))
            return known[i].name;
    return NULL;
}

/* No header: the size alone decides. Bytes given to a float32 input are samples 0..255, as those of an image are. */
static bool read_raw(const char *where, const struct bytes *file, const struct tensor *want, void *destination,
                     struct error *error) {
    size_t count, size;
    char text[SHAPE_TEXT];
    if (!tensor_count(want, &count) || !tensor_bytes(want, &size))
        return fail(error, "%s: the program's input is too large for this machine", where);
    if (file->complete && file->size == size) {
        memcpy(destination, file->data, size);
        return true;
    }
    if (file->complete && file->size == count && want->dtype == F32) {
        for (size_t i = 0; i < count; i++)
            ((float *)destination)[i] = file->data[i];
        return true;
    }
    const char *foreign = foreign_format(file);
    if (foreign != NULL)
        return fail(error, "%s: is %s, expected .npy, .pgm, .ppm or raw %s; convert it first", where, foreign,
                    dtype_name(want->dtype));
    return fail(error, "%s: is no .npy, .pgm or .ppm, and as raw %s of shape %s it needs %zu bytes, got %s%zu", where,
                dtype_name(want->dtype), shape_text(want->shape, want->rank, text), size,
                file->complete ? "" : "more than ", file->size);
}

static bool read_bytes(const char *where, const struct bytes *file, const struct tensor *want, void *destination,
                       struct error *error) {
    static const char *const pnm[] = {"P2", "P3", "P5", "P6"};
    if (file->size == 0)
        return fail(error, "%s: is empty, expected a .npy, .pgm or .ppm file or raw %s", where,
                    dtype_name(want->dtype));
    if (begins(file, "\x93NUMPY", 6))
        return read_npy(where, file, want, destination, error);
    for (size_t i = 0; i < sizeof pnm / sizeof pnm[0]; i++)
        if (begins(file, pnm[i], 2) && file->size > 2 && strchr(" \t\r\n\v\f#", file->data[2]) && file->data[2])
            return read_pnm(where, file, want, destination, error);
    return read_raw(where, file, want, destination, error);
}

bool read_input(const char *path, const struct tensor *want, void *destination, struct error *error) {
    size_t limit;
    struct bytes file;
    /* Room for every element as text in a P2/P3 file, or as float64, and for a header. */
    if (!tensor_count(want, &limit) || !size_mul(limit, 16, &limit) || !size_add(limit, 1 << 20, &limit))
        return fail(error, "%s: the program's input is too large for this machine", display_name(path));
    if (!read_all(path, limit, &file, error))
        return false;
    bool done = read_bytes(display_name(path), &file, want, destination, error);
    free(file.data);
    return done;
}
