/* Chooses the kernels for the CPU the program runs on, by CPUID and XGETBV. Off x86 the single object is taken as it is.
 * Source: Intel SDM volume 1, 14.3 (detection of AVX) and 15.2 (AVX-512): CPU bit, OSXSAVE and XCR0 must all agree. */
#include "program.h"

#include <stdio.h>

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t enabled_states(void) {
    unsigned int eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (uint64_t)edx << 32 | eax;
}

static bool has(const struct feature *feature, uint64_t states) {
    unsigned int regs[4];
    if (!__get_cpuid_count(feature->leaf, feature->subleaf, &regs[0], &regs[1], &regs[2], &regs[3]))
        return false;
    return (regs[feature->reg] >> feature->bit & 1) && (states & feature->os_state) == feature->os_state;
}
#else
static uint64_t enabled_states(void) {
    return 0;
}

static bool has(const struct feature *feature, uint64_t states) {
    (void)feature;
    (void)states;
    return false;
}
#endif

static int count_missing(const struct cpu_object *object, uint64_t states) {
    int missing = 0;
    for (int i = 0; i < object->need_count; i++)
        missing += !has(&object->needs[i], states);
    return missing;
}

/* "AVX, AVX2 and FMA (x86-64-v3)"; a text too long for the buffer is cut. */
static void name_missing(const struct cpu_object *object, uint64_t states, char *text, size_t size) {
    int missing = count_missing(object, states), named = 0;
    size_t used = 0;
    for (int i = 0; i < object->need_count && used < size; i++) {
        if (has(&object->needs[i], states))
            continue;
        const char *separator = named == 0 ? "" : named == missing - 1 ? " and " : ", ";
        used += (size_t)snprintf(text + used, size - used, "%s%s", separator, object->needs[i].name);
        named++;
    }
    if (used < size)
        snprintf(text + used, size - used, " (%s)", object->level);
}

const struct cpu_object *choose_object(char *missing, size_t missing_size) {
    uint64_t states = enabled_states();
    for (int i = 0; i < program.object_count; i++)
        if (count_missing(&program.objects[i], states) == 0)
            return &program.objects[i];
    name_missing(&program.objects[program.object_count - 1], states, missing, missing_size);
    return NULL;
}
