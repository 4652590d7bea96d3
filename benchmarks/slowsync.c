/* A slow disk for a program that is not told: fsync and fdatasync take SLOWSYNC_MS (7) milliseconds longer.
 *
 *     cc -shared -fPIC -O2 -o slowsync.so benchmarks/slowsync.c -ldl
 *     SLOWSYNC_MS=7 LD_PRELOAD=./slowsync.so gatepost serve ...
 *
 * The time is slept after the true sync, outside of the kernel's locks: two processes that sync at once wait at the
 * same time, as on a disk with a queue of its own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void wait_longer(void)
{
    const char *text = getenv("SLOWSYNC_MS");
    double ms = text ? atof(text) : 7.0;
    struct timespec left = {(time_t)(ms / 1000), (long)(ms * 1e6) % 1000000000L};
    int kept = errno;

    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
    errno = kept;
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    wait_longer();
    return result;
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    wait_longer();
    return result;
}
