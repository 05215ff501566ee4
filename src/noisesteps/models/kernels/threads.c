/* The parts of a kernel, side by side on the threads that PyTorch's own kernels use. */

#include "common.h"

typedef __SIZE_TYPE__ size;
void *malloc(size bytes);
void free(void *);

/* GOMP_parallel of GCC's OpenMP runtime: have every thread of a team call a function.
A team of our own would compete with PyTorch's, whose threads wait busily for work. */
typedef void team(void (*member)(void *), void *data, unsigned threads, unsigned flags);

static team *run_team;
static unsigned threads = 1;

/* Use so many threads; without a team, the caller's alone. */
EXPORT void set_threads(team *team, unsigned count) {
    run_team = team;
    threads = team ? count : 1;
}

i64 thread_count(void) {
    return threads;
}

typedef struct {
    part *part;
    const void *work;
    i64 count, next, numbers;
} job;

static void member(void *data) {
    job *job = data;
    float *scratch = malloc(sizeof(float) * job->numbers);
    for (;;) {
        i64 index = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (index >= job->count)
            break;
        job->part(job->work, index, scratch);
    }
    free(scratch);
}

void do_parts(part *part, const void *work, i64 count, i64 numbers) {
    job job = {part, work, count, 0, numbers};
    if (threads > 1 && count > 1)
        run_team(member, &job, threads, 0);
    else
        member(&job);
}
