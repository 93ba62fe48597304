/* NumPy's .npy format, versions 1 to 3, little-endian C order: read with conversion to the program's dtype, written as is.
 * Source: numpy.lib.format, "Format Version 1.0" to "3.0". */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* f: IEEE, i: signed, u: unsigned, b: true or false. */
struct source {
    const char *descr;
    char kind;
    int bytes;
};

static const struct source sources[] = {{"<f4", 'f', 4}, {"<f8", 'f', 8}, {"|u1", 'u', 1}, {"|b1", 'b', 1},
                                        {"|i1", 'i', 1}, {"<u2", 'u', 2}, {"<i2", 'i', 2}, {"<u4", 'u', 4},
                                        {"<i4", 'i', 4}, {"<i8", 'i', 8}};

struct cursor {
    const unsigned char *at, *end;
};

struct header {
    char descr[32];
    bool fortran;
    int rank;
    int64_t shape[MAX_RANK];
    bool seen[3];
};

/* Python's white space: no vertical tab. */
static void skip_space(struct cursor *cursor) {
    while (cursor->at < cursor->end && memchr(" \t\n\r\f", *cursor->at, 5) != NULL)
        cursor->at++;
}

static bool take(struct cursor *cursor, const char *text) {
    size_t size = strlen(text);
    skip_space(cursor);
    if ((size_t)(cursor->end - cursor->at) < size || memcmp(cursor->at, text, size) != 0)
        return false;
    cursor->at += size;
    return true;
}

/* A quoted string without escapes, at most size - 1 characters. */
static bool quoted(struct cursor *cursor, char *text, size_t size) {
    size_t used = 0;
    skip_space(cursor);
    if (cursor->at == cursor->end || (*cursor->at != '\'' && *cursor->at != '"'))
        return false;
    unsigned char quote = *cursor->at++;
    for (; cursor->at < cursor->end && *cursor->at != quote; cursor->at++) {
        if (*cursor->at == '\\' || *cursor->at < ' ' || *cursor->at > '~' || used + 1 >= size)
            return false;
        text[used++] = (char)*cursor->at;
    }
    text[used] = '\0';
    return cursor->at < cursor->end && *cursor->at++ == quote;
}

static bool extent(struct cursor *cursor, int64_t *value) {
    const unsigned char *start = cursor->at;
    for (*value = 0; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++) {
        if (*value > (INT64_MAX - 9) / 10)
            return false;
        *value = 10 * *value + (*cursor->at - '0');
    }
    return cursor->at > start && (*start != '0' || cursor->at == start + 1);
}

static bool shape(struct cursor *cursor, struct header *header) {
    if (!take(cursor, "("))
        return false;
    for (header->rank = 0; !take(cursor, ")"); header->rank++) {
        if (header->rank == MAX_RANK || !extent(cursor, &header->shape[header->rank]))
            return false;
        take(cursor, "L"); /* Python 2 wrote its long integers so */
        bool comma = take(cursor, ",");
        skip_space(cursor);
        if (!comma && (cursor->at == cursor->end || *cursor->at != ')'))
            return false;
    }
    return true;
}

static bool entry(struct cursor *cursor, struct header *header) {
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    char key[32];
    int which = 0;
    if (!quoted(cursor, key, sizeof key) || !take(cursor, ":"))
        return false;
    while (which < 3 && strcmp(key, keys[which]) != 0)
        which++;
    if (which == 3 || header->seen[which])
        return false;
    header->seen[which] = true;
    if (which == 0)
        return quoted(cursor, header->descr, sizeof header->descr);
    if (which == 2)
        return shape(cursor, header);
    header->fortran = take(cursor, "True");
    return header->fortran || take(cursor, "False");
}

/* The Python dictionary {'descr': ..., 'fortran_order': ..., 'shape': ...}, its keys in any order. */
static bool dictionary(struct cursor *cursor, struct header *header) {
    if (!take(cursor, "{"))
        return false;
    while (!take(cursor, "}")) {
        if (!entry(cursor, header))
            return false;
        if (!take(cursor, ",")) {
            skip_space(cursor);
            if (cursor->at == cursor->end || *cursor->at != '}')
                return false;
        }
    }
    skip_space(cursor);
    return cursor->at == cursor->end && header->seen[0] && header->seen[1] && header->seen[2];
}

/* On success cursor stands at the first byte of the data. */
static bool read_header(const char *where, struct cursor *cursor, struct header *header, struct error *error) {
    size_t left = (size_t)(cursor->end - cursor->at), prefix, size = 0;
    int version = left > 6 ? cursor->at[6] : 0;
    prefix = version == 1 ? 10 : 12;
    if (left < prefix)
        return fail(error, "%s: .npy file is cut off in its header", where);
    if (version < 1 || version > 3 || cursor->at[7] != 0)
        return fail(error, "%s: .npy format version %d.%d, expected 1.0, 2.0 or 3.0", where, version, cursor->at[7]);
    for (size_t i = prefix; i > 8; i--)
        size = size << 8 | cursor->at[i - 1];
    if (size > left - prefix)
        return fail(error, "%s: .npy file is cut off in its header", where);
    struct cursor text = {cursor->at + prefix, cursor->at + prefix + size};
    cursor->at = text.end;
    if (!dictionary(&text, header))
        return fail(error, "%s: .npy header is damaged or of a kind not read (records, more than %d axes)", where,
                    MAX_RANK);
    return true;
}

/* Axes of extent 1 in front do not count: 28x28, 1x28x28 and 1x1x28x28 are the same image. */
static bool same_shape(const struct header *header, const struct tensor *want) {
    const int64_t *a = header->shape, *b = want->shape;
    int rank_a = header->rank, rank_b = want->rank;
    for (; rank_a > 0 && *a == 1; rank_a--)
        a++;
    for (; rank_b > 0 && *b == 1; rank_b--)
        b++;
    return rank_a == rank_b && memcmp(a, b, (size_t)rank_a * sizeof *a) == 0;
}

static const struct source *find_source(const char *where, const struct header *header, struct error *error) {
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        if (strcmp(header->descr, sources[i].descr) == 0)
            return &sources[i];
    fail(error, "%s: .npy holds dtype '%s', expected '<f4', '<f8', '|u1', '<i4' or '<i8' (array.astype('<f4'))", where,
         header->descr);
    return NULL;
}

static int64_t integer_at(const struct source *source, const unsigned char *at) {
    uint64_t bits = 0;
    memcpy(&bits, at, (size_t)source->bytes);
    if (source->kind == 'b')
        return bits != 0;
    if (source->kind == 'u' || source->bytes == 8)
        return (int64_t)bits;
    uint64_t sign = (uint64_t)1 << (8 * source->bytes - 1);
    return (int64_t)((bits ^ sign) - sign);
}

/* float64 is rounded to float32; a finite value that float32 cannot reach is refused. */
static bool store_float(double value, const struct tensor *want, void *destination, size_t i) {
    float narrow = (float)value;
    if (want->dtype != F32 || (isinf(narrow) && !isinf(value)))
        return false;
    ((float *)destination)[i] = narrow;
    return true;
}

/* Integers must keep their value: 0..255, int32, or an integer that float32 holds exactly (all up to 2^24). */
static bool store_integer(int64_t value, const struct tensor *want, void *destination, size_t i) {
    if (want->dtype == U8) {
        ((unsigned char *)destination)[i] = (unsigned char)value;
        return value >= 0 && value <= UINT8_MAX;
    }
    if (want->dtype == I32) {
        ((int32_t *)destination)[i] = (int32_t)value;
        return value >= INT32_MIN && value <= INT32_MAX;
    }
    float narrow = (float)value;
    ((float *)destination)[i] = narrow;
    /* 2^63 as a float does not fit int64_t: compare before converting back. */
    return narrow < 0x1p63f && (int64_t)narrow == value;
}

static bool convert(const char *where, const struct source *source, const unsigned char *data, size_t count,
                    const struct tensor *want, void *destination, struct error *error) {
    size_t step = (size_t)source->bytes;
    if (source->kind == 'f' && want->dtype != F32)
        return fail(error, "%s: .npy holds dtype '%s', expected integers for %s (array.astype('%s'))", where,
                    source->descr, dtype_name(want->dtype), dtype_name(want->dtype));
    if (source->kind == 'f' && source->bytes == 4) {
        memcpy(destination, data, count * step); /* every bit is kept, those of a NaN too */
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        const unsigned char *at = data + i * step;
        if (source->kind == 'f') {
            double value;
            memcpy(&value, at, sizeof value);
            if (!store_float(value, want, destination, i))
                return fail(error, "%s: value %g at position %zu is out of the range of float32", where, value, i);
        } else {
            int64_t value = integer_at(source, at);
            if (!store_integer(value, want, destination, i))
                return fail(error, "%s: value %lld at position %zu does not fit %s", where, (long long)value, i,
                            dtype_name(want->dtype));
        }
    }
    return true;
}

bool read_npy(const char *where, const struct bytes *file, const struct tensor *want, void *destination,
              struct error *error) {
    struct cursor cursor = {file->data, file->data + file->size};
    struct header header = {.rank = 0};
    char expected[SHAPE_TEXT], got[SHAPE_TEXT];
    size_t count, size;
    if (!read_header(where, &cursor, &header, error))
        return false;
    const struct source *source = find_source(where, &header, error);
    if (source == NULL)
        return false;
    if (!same_shape(&header, want))
        return fail(error, "%s: expected shape %s, got %s", where, shape_text(want->shape, want->rank, expected),
                    shape_text(header.shape, header.rank, got));
    if (header.fortran)
        return fail(error, "%s: .npy is in Fortran order, expected C order (numpy.ascontiguousarray)", where);
    if (!tensor_count(want, &count) || !size_mul(count, (size_t)source->bytes, &size))
        return fail(error, "%s: the program's input is too large for this machine", where);
    size_t left = (size_t)(cursor.end - cursor.at);
    if (left != size || !file->complete)
        return fail(error, "%s: .npy %s, expected %zu bytes of data, got %s%zu", where,
                    left < size ? "is cut off" : "has bytes after its data", size, file->complete ? "" : "more than ",
                    left);
    return convert(where, source, cursor.at, count, want, destination, error);
}

/* The header is padded with blanks so that the data begins at a multiple of 64 bytes. */
static size_t npy_header(const struct tensor *tensor, char text[512]) {
    static const char *const descr[] = {[F32] = "<f4", [U8] = "|u1", [I32] = "<i4"};
    int used = 10;
    used += snprintf(text + used, (size_t)(512 - used), "{'descr': '%s', 'fortran_order': False, 'shape': (",
                     descr[tensor->dtype]);
    for (int i = 0; i < tensor->rank; i++)
        used += snprintf(text + used, (size_t)(512 - used), "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    used += snprintf(text + used, (size_t)(512 - used), "%s), }", tensor->rank == 1 ? "," : "");
    size_t total = ((size_t)used + 1 + 63) / 64 * 64;
    memset(text + used, ' ', total - (size_t)used - 1);
    text[total - 1] = '\n';
    memcpy(text, "\x93NUMPY\x01\x00", 8);
    text[8] = (char)((total - 10) & 255);
    text[9] = (char)((total - 10) >> 8);
    return total;
}

static bool write_whole(int fd, const void *data, size_t size) {
    const unsigned char *at = data;
    while (size > 0) {
        ssize_t put = write(fd, at, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        at += put;
        size -= (size_t)put;
    }
    return true;
}

bool write_npy(const char *path, const struct tensor *tensor, const void *data, struct error *error) {
    char head[512];
    size_t head_size = npy_header(tensor, head), size, name_size = strlen(path) + 32;
    struct stat status;
    bool in_place = stat(path, &status) == 0 && !S_ISREG(status.st_mode);
    if (!tensor_bytes(tensor, &size))
        return fail(error, "%s: the output is too large for this machine", path);
    char *temporary = malloc(name_size);
    if (temporary == NULL)
        return fail(error, "%s: no memory", path);
    snprintf(temporary, name_size, in_place ? "%s" : "%s.%ld.part", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CLOEXEC | (in_place ? 0 : O_CREAT | O_EXCL), 0666);
    bool done = fd >= 0 && write_whole(fd, head, head_size) && write_whole(fd, data, size);
    int reason = errno;
    if (fd >= 0 && close(fd) != 0 && done) {
        done = false;
        reason = errno;
    }
    if (done && !in_place && rename(temporary, path) != 0) {
        done = false;
        reason = errno;
    }
    if (!done && fd >= 0 && !in_place)
        unlink(temporary);
    free(temporary);
    return done || fail(error, "%s: cannot be written: %s", path, strerror(reason));
}
