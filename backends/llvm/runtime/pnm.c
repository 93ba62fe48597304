/* Netpbm images, grey (P2, P5) and colour (P3, P6), with up to 8 bits a sample, into CHW order.
 * Source: the pgm(5) and ppm(5) manual pages. Samples are scaled to 0..255 when the file's maximum is not 255. */
#include "files.h"

#include <string.h>

struct cursor {
    const unsigned char *at, *end;
};

struct image {
    bool ascii;
    int64_t channels, height, width, maximum;
};

static bool is_space(unsigned char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_space_and_comments(struct cursor *cursor) {
    while (cursor->at < cursor->end && (is_space(*cursor->at) || *cursor->at == '#')) {
        if (*cursor->at == '#')
            while (cursor->at < cursor->end && *cursor->at != '\n')
                cursor->at++;
        else
            cursor->at++;
    }
}

/* A decimal number below 10^9; false at the end of the file, on anything else, or on a larger number. */
static bool number(struct cursor *cursor, int64_t *value) {
    int digits = 0;
    skip_space_and_comments(cursor);
    for (*value = 0; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++) {
        *value = 10 * *value + (*cursor->at - '0');
        if (++digits > 9)
            return false;
    }
    return digits > 0 && (cursor->at == cursor->end || is_space(*cursor->at) || *cursor->at == '#');
}

static bool header(const char *where, struct cursor *cursor, struct image *image, struct error *error) {
    unsigned char kind = cursor->at[1];
    *image = (struct image){.ascii = kind < '5', .channels = kind == '3' || kind == '6' ? 3 : 1};
    cursor->at += 2;
    if (!number(cursor, &image->width) || !number(cursor, &image->height) || !number(cursor, &image->maximum))
        return fail(error, "%s: damaged image header, expected width, height and the largest sample", where);
    if (image->width == 0 || image->height == 0 || image->maximum == 0)
        return fail(error, "%s: damaged image header: width, height or the largest sample is 0", where);
    if (image->maximum > 255)
        return fail(error, "%s: has 16 bits a sample (largest %lld), expected 8 (largest 255 or less)", where,
                    (long long)image->maximum);
    if (!image->ascii) {
        if (cursor->at == cursor->end || !is_space(*cursor->at))
            return fail(error, "%s: damaged image header, expected white space before the samples", where);
        cursor->at++;
    }
    return true;
}

/* An input of fewer than three axes takes any image with as many samples. */
static bool fits(const char *where, const struct image *image, const struct tensor *want, size_t count,
                 struct error *error) {
    char text[SHAPE_TEXT];
    const char *plural = image->channels == 1 ? "" : "s";
    if (want->rank < 3) {
        size_t samples = (size_t)image->width * (size_t)image->height; /* below 10^18 */
        if (count % (size_t)image->channels == 0 && samples == count / (size_t)image->channels)
            return true;
        return fail(error, "%s: expected an image of %zu samples in all, got %lldx%lld with %lld channel%s", where,
                    count, (long long)image->width, (long long)image->height, (long long)image->channels, plural);
    }
    const int64_t *chw = want->shape + want->rank - 3;
    for (int i = 0; i < want->rank - 3; i++)
        if (want->shape[i] != 1)
            return fail(error, "%s: is one image, expected %s (a .npy can hold that)", where,
                        shape_text(want->shape, want->rank, text));
    if (chw[0] == image->channels && chw[1] == image->height && chw[2] == image->width)
        return true;
    return fail(error, "%s: expected a %lldx%lld image with %lld channel%s, got %lldx%lld with %lld channel%s", where,
                (long long)chw[2], (long long)chw[1], (long long)chw[0], chw[0] == 1 ? "" : "s",
                (long long)image->width, (long long)image->height, (long long)image->channels, plural);
}

static void store(const struct tensor *want, void *destination, size_t index, unsigned char sample) {
    if (want->dtype == F32)
        ((float *)destination)[index] = sample;
    else if (want->dtype == U8)
        ((unsigned char *)destination)[index] = sample;
    else
        ((int32_t *)destination)[index] = sample;
}

bool read_pnm(const char *where, const struct bytes *file, const struct tensor *want, void *destination,
              struct error *error) {
    struct cursor cursor = {file->data, file->data + file->size};
    struct image image;
    size_t count;
    if (!header(where, &cursor, &image, error))
        return false;
    if (!tensor_count(want, &count))
        return fail(error, "%s: the program's input is too large for this machine", where);
    if (!fits(where, &image, want, count, error))
        return false;
    size_t channels = (size_t)image.channels, pixels = count / channels;
    size_t left = (size_t)(cursor.end - cursor.at);
    if (!file->complete)
        return fail(error, "%s: is longer than an image of %zu samples can be", where, count);
    if (!image.ascii && left != count)
        return fail(error, "%s: %s, expected %zu bytes of samples, got %zu", where,
                    left < count ? "is cut off" : "has bytes after its samples", count, left);
    for (size_t i = 0; i < count; i++) {
        int64_t sample;
        if (!image.ascii)
            sample = *cursor.at++;
        else if (!number(&cursor, &sample))
            return fail(error, "%s: expected %zu samples, but sample %zu is missing or no number", where, count, i + 1);
        if (sample > image.maximum)
            return fail(error, "%s: sample %zu is %lld, above the file's largest, %lld", where, i + 1,
                        (long long)sample, (long long)image.maximum);
        if (image.maximum != 255)
            sample = (2 * 255 * sample + image.maximum) / (2 * image.maximum);
        store(want, destination, i % channels * pixels + i / channels, (unsigned char)sample);
    }
    skip_space_and_comments(&cursor);
    if (image.ascii && cursor.at != cursor.end)
        return fail(error, "%s: has more than %zu samples", where, count);
    return true;
}
