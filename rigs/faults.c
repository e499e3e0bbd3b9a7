/*
 * A disk that fails on request, for a child process of the rigs: preloaded, it stands between SQLite and the C
 * library for the files of one database. Nothing of it is in the product.
 *
 * Watched are FAULTS_DB, and the same with -wal, -journal, -shm and -room; and FAULTS_LEDGER, whose lines are only logged.
 * Other files whose names begin with FAULTS_DB never fail, but count for FAULTS_KILL.
 *
 *   FAULTS_CLASS  read | write | sync | truncate: what fails
 *   FAULTS_AT     the n-th call of that class (from 1) fails, and FAULTS_FOR - 1 more; FAULTS_FOR 0: all after it
 *   FAULTS_ERRNO  with what (5 is EIO, 28 ENOSPC)
 *   FAULTS_KILL   SIGKILL instead of the n-th call that changes a file: write, sync, truncate, unlink, rename, link
 *   FAULTS_FULL   while a file of this name exists, every write and truncate fails
 *   FAULTS_FULL_ERRNO  with what; ENOSPC if left out
 *   FAULTS_DELAY  microseconds that every write and sync takes longer
 *   FAULTS_COUNTS a file that gets the number of calls of each class at a normal end
 *   FAULTS_LOG    a file that gets every write, truncate and sync, and the ledger's lines, in their order. Syncs are
 *                 not carried out then: what would have survived is for the reader of the log to say. A sync that
 *                 fails has a record of its own.
 *
 * One lock around everything: the order in the log is the order of the calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { READ, WRITE, SYNC, TRUNCATE, CLASSES, FAILED_SYNC = CLASSES, GONE };
enum { NONE, DB, WAL, JOURNAL, SHM, LEDGER, ROOM, OTHER };
#define FDS 4096

static const char *names[CLASSES] = {"read", "write", "sync", "truncate"};
static unsigned char watched[FDS];
static long counts[CLASSES];
static int fail_class = -1, fail_errno = EIO, full_errno = ENOSPC, log_fd = -1;
static long fail_at, fail_for = 1, delay, kill_at, changes;
static const char *db, *ledger, *full, *counts_path;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);
static int (*real_linkat)(int, const char *, int, const char *, int);

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

__attribute__((constructor)) static void begin(void) {
    real_open = dlsym(RTLD_NEXT, "open");
    real_close = dlsym(RTLD_NEXT, "close");
    real_read = dlsym(RTLD_NEXT, "read");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pread = dlsym(RTLD_NEXT, "pread");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_linkat = dlsym(RTLD_NEXT, "linkat");
    const char *class = getenv("FAULTS_CLASS");
    for (int i = 0; class && i < CLASSES; i++)
        if (!strcmp(class, names[i])) fail_class = i;
    fail_at = number("FAULTS_AT", 0);
    fail_for = number("FAULTS_FOR", 1);
    fail_errno = (int)number("FAULTS_ERRNO", EIO);
    full_errno = (int)number("FAULTS_FULL_ERRNO", ENOSPC);
    delay = number("FAULTS_DELAY", 0);
    kill_at = number("FAULTS_KILL", 0);
    ledger = getenv("FAULTS_LEDGER");
    full = getenv("FAULTS_FULL");
    counts_path = getenv("FAULTS_COUNTS");
    const char *log = getenv("FAULTS_LOG");
    if (log) log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    db = getenv("FAULTS_DB");
}

__attribute__((destructor)) static void end(void) {
    if (!counts_path) return;
    char text[256];
    int n = snprintf(text, sizeof text, "read %ld\nwrite %ld\nsync %ld\ntruncate %ld\nchange %ld\n", counts[READ],
                     counts[WRITE], counts[SYNC], counts[TRUNCATE], changes);
    int fd = real_open(counts_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && real_write(fd, text, n) == n) real_close(fd);
}

static int kind_of(const char *path) {
    if (ledger && !strcmp(path, ledger)) return LEDGER;
    size_t n = db ? strlen(db) : 0;
    if (!n || strncmp(path, db, n)) return NONE;
    const char *rest = path + n;
    if (!*rest) return DB;
    if (!strcmp(rest, "-wal")) return WAL;
    if (!strcmp(rest, "-journal")) return JOURNAL;
    if (!strcmp(rest, "-room")) return ROOM;
    return strcmp(rest, "-shm") ? OTHER : SHM;
}

static int kind(int fd) { return fd >= 0 && fd < FDS ? watched[fd] : NONE; }

/* A call that changes a file is about to be made. */
static void changing(void) {
    if (++changes == kill_at) kill(getpid(), SIGKILL);
}

/* Whether this call is to fail; errno is set then. */
static int fails(int class, int kind) {
    if (kind == LEDGER) return 0;
    if (class != READ) changing();
    if (kind == OTHER) return 0;
    long n = ++counts[class];
    if (class == fail_class && n >= fail_at && (fail_for == 0 || n < fail_at + fail_for)) {
        errno = fail_errno;
        return 1;
    }
    if (full && (class == WRITE || class == TRUNCATE) && access(full, F_OK) == 0) {
        errno = full_errno;
        return 1;
    }
    return 0;
}

static void slow(int kind) {
    if (!delay || kind == LEDGER || kind == SHM || kind == OTHER) return;
    struct timespec wait = {delay / 1000000, (delay % 1000000) * 1000};
    nanosleep(&wait, NULL);
}

/* A record: class, file, length, offset; then the bytes of a write. */
static void note(int class, int kind, uint64_t offset, const void *bytes, uint32_t length) {
    if (log_fd < 0 || kind == SHM || kind == ROOM || kind == OTHER) return;
    unsigned char head[16] = {(unsigned char)class, (unsigned char)kind};
    memcpy(head + 4, &length, 4);
    memcpy(head + 8, &offset, 8);
    if (real_write(log_fd, head, 16) != 16 || (bytes && real_write(log_fd, bytes, length) != (ssize_t)length)) abort();
}

static int opened(const char *path, int flags, mode_t mode) {
    int fd = real_open(path, flags, mode);
    if (fd >= 0 && fd < FDS) watched[fd] = (unsigned char)kind_of(path);
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, mode);
}

int close(int fd) {
    if (fd >= 0 && fd < FDS) watched[fd] = NONE;
    return real_close(fd);
}

ssize_t read(int fd, void *bytes, size_t length) {
    if (!kind(fd)) return real_read(fd, bytes, length);
    pthread_mutex_lock(&lock);
    ssize_t done = fails(READ, kind(fd)) ? -1 : real_read(fd, bytes, length);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) {
    if (!kind(fd)) return real_pread(fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = fails(READ, kind(fd)) ? -1 : real_pread(fd, bytes, length, offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pread(int fd, void *bytes, size_t length, off_t offset) { return pread64(fd, bytes, length, offset); }

ssize_t write(int fd, const void *bytes, size_t length) {
    int k = kind(fd);
    if (!k) return real_write(fd, bytes, length);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!fails(WRITE, k)) {
        off_t at = k == LEDGER ? 0 : lseek(fd, 0, SEEK_CUR);
        slow(k);
        done = real_write(fd, bytes, length);
        if (done > 0) note(WRITE, k, (uint64_t)at, bytes, (uint32_t)done);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    int k = kind(fd);
    if (!k) return real_pwrite(fd, bytes, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!fails(WRITE, k)) {
        slow(k);
        done = real_pwrite(fd, bytes, length, offset);
        if (done > 0) note(WRITE, k, (uint64_t)offset, bytes, (uint32_t)done);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

static int synced(int fd, int (*real)(int)) {
    int k = kind(fd);
    if (!k || k == LEDGER) return real(fd);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (fails(SYNC, k)) {
        int why = errno;
        note(FAILED_SYNC, k, 0, NULL, 0);
        errno = why;
    } else {
        slow(k);
        done = log_fd < 0 || k == OTHER ? real(fd) : 0;
        if (done == 0) note(SYNC, k, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int ftruncate64(int fd, off64_t length) {
    int k = kind(fd);
    if (!k) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int done = fails(TRUNCATE, k) ? -1 : real_ftruncate(fd, length);
    if (done == 0) note(TRUNCATE, k, (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int unlink(const char *path) {
    int k = kind_of(path);
    if (!k) return real_unlink(path);
    pthread_mutex_lock(&lock);
    changing();
    int done = real_unlink(path);
    if (done == 0) note(GONE, k, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    if (kind_of(from) || kind_of(to)) changing();
    int done = real_rename(from, to);
    pthread_mutex_unlock(&lock);
    return done;
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    pthread_mutex_lock(&lock);
    if (kind_of(from) || kind_of(to)) changing();
    int done = real_linkat(from_folder, from, to_folder, to, flags);
    pthread_mutex_unlock(&lock);
    return done;
}
