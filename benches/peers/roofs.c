// What this machine can do at most, as one line of JSON: streaming reads, and multiply-add in f32, bf16 and int8.
//
//     cc -O3 -march=native -pthread -o roofs roofs.c && ./roofs THREADS
//
// Each figure is the median of several passes that all threads start together. bf16 and int8 are null where the compiler
// targets no such instruction. Takes about a second and 1 GiB.

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __AVX512F__
#define WIDTH 64 // bytes of a vector
#define CHAINS 16 // independent sums: enough to hide the latency of multiply-add, few enough for the registers
#else
#define WIDTH 32
#define CHAINS 10
#endif
#define IN_REGISTERS _Pragma("GCC unroll 16")

enum { PASSES = 7, MOST_THREADS = 1024 };
static const size_t BYTES = (size_t)1 << 30;
static const long STEPS = 1 << 21;

typedef long long lanes __attribute__((vector_size(WIDTH)));
typedef float floats __attribute__((vector_size(WIDTH)));
typedef int ints __attribute__((vector_size(WIDTH)));

static int threads;
static pthread_barrier_t gate;
static _Thread_local volatile long long sink; // keeps results alive

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void read_all(const lanes *data, size_t count) {
    lanes sum[8] = {0};
    for (size_t i = 0; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; j++) sum[j] ^= data[i + j];
    for (int j = 1; j < 8; j++) sum[0] ^= sum[j];
    sink += sum[0][0];
}

static void f32_chains(void) {
    floats sum[CHAINS], scale, shift;
    for (int i = 0; i < WIDTH / 4; i++) scale[i] = 0.5f, shift[i] = (float)threads;
    for (int j = 0; j < CHAINS; j++) sum[j] = shift + (float)j;
    for (long step = 0; step < STEPS; step++) {
        IN_REGISTERS
        for (int j = 0; j < CHAINS; j++) sum[j] = sum[j] * scale + shift;
    }
    for (int j = 1; j < CHAINS; j++) sum[0] += sum[j];
    sink += (long long)sum[0][0];
}

// The two dot products are written as instructions: gcc moves their sums between registers when they are intrinsics.
#define DOT_CHAINS(name, type, instruction, place)                                       \
    static void name(void) {                                                             \
        type sum[CHAINS] = {0}, ones = (type){0} + 1;                                    \
        for (long step = 0; step < STEPS; step++) {                                      \
            IN_REGISTERS                                                                 \
            for (int j = 0; j < CHAINS; j++) {                                           \
                type one = sum[j];                                                       \
                __asm__ volatile(instruction " %1, %1, %0" : "+" place(one) : place(ones)); \
                sum[j] = one;                                                            \
            }                                                                            \
        }                                                                                \
        for (int j = 1; j < CHAINS; j++) sum[0] += sum[j];                               \
        sink += (long long)sum[0][0];                                                    \
    }

#ifdef __AVX512BF16__
#define BF16_WIDTH (WIDTH / 2)
DOT_CHAINS(bf16_chains, floats, "vdpbf16ps", "v")
#endif

#if defined(__AVX512VNNI__)
#define INT8_WIDTH WIDTH
DOT_CHAINS(int8_chains, ints, "vpdpbusd", "v")
#elif defined(__AVXVNNI__)
#define INT8_WIDTH WIDTH
DOT_CHAINS(int8_chains, ints, "%{vex%} vpdpbusd", "x")
#endif

enum { READ, F32, BF16, INT8, KINDS };
static double seconds[KINDS][PASSES], begin[MOST_THREADS], end[MOST_THREADS];

static void work(int kind, const lanes *data, size_t count) {
    if (kind == READ) read_all(data, count);
    if (kind == F32) f32_chains();
#ifdef BF16_WIDTH
    if (kind == BF16) bf16_chains();
#endif
#ifdef INT8_WIDTH
    if (kind == INT8) int8_chains();
#endif
}

static void *thread(void *number) {
    long me = (long)number;
    size_t bytes = BYTES / threads / 512 * 512;
    lanes *data = aligned_alloc(64, bytes);
    if (!data) exit(1);
    memset(data, 1, bytes);
    for (int kind = 0; kind < KINDS; kind++)
        for (int pass = 0; pass < PASSES; pass++) {
            pthread_barrier_wait(&gate);
            begin[me] = now();
            work(kind, data, bytes / sizeof(lanes));
            end[me] = now();
            pthread_barrier_wait(&gate);
            if (me > 0) continue;
            double first = begin[0], last = end[0]; // from the first that starts to the last that ends
            for (int i = 1; i < threads; i++) {
                if (begin[i] < first) first = begin[i];
                if (end[i] > last) last = end[i];
            }
            seconds[kind][pass] = last - first;
        }
    free(data);
    return NULL;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *name, int kind, double work_of_all) {
    qsort(seconds[kind], PASSES, sizeof(double), ascending);
    if (work_of_all > 0)
        printf(", \"%s\": %.1f", name, work_of_all / seconds[kind][PASSES / 2] * 1e-9);
    else
        printf(", \"%s\": null", name);
}

int main(int count, char **args) {
    threads = count == 2 ? atoi(args[1]) : 0;
    if (threads < 1 || threads > MOST_THREADS) {
        fprintf(stderr, "usage: roofs THREADS\n");
        return 2;
    }
    pthread_t ids[MOST_THREADS];
    pthread_barrier_init(&gate, NULL, threads);
    for (long i = 1; i < threads; i++)
        if (pthread_create(&ids[i], NULL, thread, (void *)i)) return 1;
    thread((void *)0);
    for (int i = 1; i < threads; i++) pthread_join(ids[i], NULL);

    double ops = 2.0 * threads * STEPS * CHAINS; // a multiply and an add for each lane
    printf("{\"threads\": %d", threads);
    print("read_gb_s", READ, (double)BYTES);
    print("f32_gflop_s", F32, ops * WIDTH / 4);
#ifdef BF16_WIDTH
    print("bf16_gflop_s", BF16, ops * BF16_WIDTH);
#else
    print("bf16_gflop_s", BF16, 0);
#endif
#ifdef INT8_WIDTH
    print("int8_gop_s", INT8, ops * INT8_WIDTH);
#else
    print("int8_gop_s", INT8, 0);
#endif
    printf("}\n");
    return 0;
}
