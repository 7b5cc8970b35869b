/*
 * A disk that takes its time, for a process with this in LD_PRELOAD: fsync() and fdatasync() make the
 * file "flushing" in the folder $SHUNT_TEST_DISK, and return when its file "closed" is gone.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static char closed[4096], flushing[4096];

/* NGINX clears its environment later. */
__attribute__((constructor)) static void start(void)
{
    const char *disk = getenv("SHUNT_TEST_DISK");

    snprintf(closed, sizeof(closed), "%s/closed", disk ? disk : "");
    snprintf(flushing, sizeof(flushing), "%s/flushing", disk ? disk : "");
}

static int flush(long call, int fd)
{
    if (access(closed, F_OK) == 0) {
        close(open(flushing, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        while (access(closed, F_OK) == 0) {
            usleep(200);
        }
        unlink(flushing);
    }
    return (int) syscall(call, fd);
}

int fsync(int fd)
{
    return flush(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return flush(SYS_fdatasync, fd);
}
