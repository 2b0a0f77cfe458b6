/* A disk that fails when it is told to: a library for LD_PRELOAD, with which tests try every write.

   It counts the system calls that change something below one folder. The n-th of them fails, or all from
   the n-th on (a disk that is full stays full). The counter and the orders lie in a file that the test and
   its children share; so a test can change them between two runs in one process:

     struct orders { count, at, error, lasting, halves }     64-bit numbers, see below

   FAILING_DISK_ORDERS names that file, FAILING_DISK_FOLDER the folder (a real path, no links in it). With
   FAILING_DISK_RECORD, a file, what the calls did is written there: a line "name path offset length",
   and the bytes. What a folder on a network disk without locks does is an order of its own: at = -1 lets
   every lock fail with ENOLCK. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static struct orders {
	int64_t count;   /* calls so far */
	int64_t at;      /* the number of the first call that fails; 0: none, -1: all locks */
	int64_t error;   /* what it fails with */
	int64_t lasting; /* 1: all later ones fail as well, save those that make room */
	int64_t halves;  /* 1: a write that fails is preceded by one that writes the first half */
} *orders;
static char folder[PATH_MAX];
static size_t folder_length;
static int record = -1;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
	const char *file = getenv("FAILING_DISK_ORDERS"), *place = getenv("FAILING_DISK_FOLDER");
	const char *log = getenv("FAILING_DISK_RECORD");
	if (!file || !place)
		return;
	int handle = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
	void *memory = handle < 0 ? MAP_FAILED : mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
	if (memory == MAP_FAILED) {
		fprintf(stderr, "failing_disk: %s: %s\n", file, strerror(errno));
		_exit(99);
	}
	syscall(SYS_close, handle);
	folder_length = strlen(strncpy(folder, place, sizeof folder - 1));
	if (log)
		record = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	orders = memory;
}

static int is_below(const char *path)
{
	return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* Write the path that a handle stands for; say whether it lies in the folder. */
static int of_handle(int handle, char *path)
{
	char link[64];
	if (!orders)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
	ssize_t length = readlink(link, path, PATH_MAX - 1);
	path[length > 0 ? length : 0] = 0;
	return is_below(path);
}

static int of_path(int base, const char *name, char *path)
{
	if (!orders || !name)
		return 0;
	if (name[0] == '/')
		snprintf(path, PATH_MAX, "%s", name);
	else {
		char start[PATH_MAX];
		if (base == AT_FDCWD) {
			if (!getcwd(start, sizeof start))
				return 0;
		} else
			of_handle(base, start);
		snprintf(path, PATH_MAX, "%.2000s/%.2000s", start, name);
	}
	return is_below(path);
}

/* Count a call. Return 1, with errno set, if it has to fail. A disk that is full has room again for a name
   that was given up, and lets go of files. */
enum need { TAKES_ROOM, TAKES_A_NAME, MAKES_ROOM };

static int fails(enum need need)
{
	int64_t number = __atomic_add_fetch(&orders->count, 1, __ATOMIC_SEQ_CST), at = orders->at;
	if (at <= 0 || number < at || (number > at && (!orders->lasting || need != TAKES_ROOM)))
		return 0;
	if (orders->lasting && need == MAKES_ROOM)
		return 0;
	errno = orders->error;
	return 1;
}

static void put(const void *data, size_t length)
{
	while (length > 0) {
		ssize_t done = syscall(SYS_write, record, data, length);
		if (done < 0)
			_exit(98);
		data = (const char *)data + done;
		length -= done;
	}
}

static void note(const char *name, const char *path, int64_t offset, const void *data, size_t length)
{
	char line[PATH_MAX + 100];
	if (record < 0)
		return;
	int size = snprintf(line, sizeof line, "%s\t%s\t%lld\t%zu\n", name, path, (long long)offset, length);
	pthread_mutex_lock(&one_at_a_time);
	put(line, size);
	if (data)
		put(data, length);
	pthread_mutex_unlock(&one_at_a_time);
}

/* --- writing --- */

ssize_t write(int handle, const void *data, size_t length)
{
	char path[PATH_MAX];
	if (handle == record || !of_handle(handle, path))
		return NEXT(write)(handle, data, length);
	if (fails(TAKES_ROOM)) {
		if (!orders->halves || length < 2)
			return -1;
		orders->halves = 0;
		return NEXT(write)(handle, data, length / 2); /* and the rest, asked for again, fails */
	}
	note("write", path, lseek(handle, 0, SEEK_CUR), data, length);
	return NEXT(write)(handle, data, length);
}

ssize_t pwrite64(int handle, const void *data, size_t length, off64_t offset)
{
	char path[PATH_MAX];
	if (!of_handle(handle, path))
		return NEXT(pwrite64)(handle, data, length, offset);
	if (fails(TAKES_ROOM)) {
		if (!orders->halves || length < 2)
			return -1;
		orders->halves = 0;
		return NEXT(pwrite64)(handle, data, length / 2, offset);
	}
	note("write", path, offset, data, length);
	return NEXT(pwrite64)(handle, data, length, offset);
}

ssize_t pwrite(int handle, const void *data, size_t length, off_t offset)
{
	return pwrite64(handle, data, length, offset);
}

ssize_t writev(int handle, const struct iovec *parts, int count)
{
	char path[PATH_MAX];
	return of_handle(handle, path) && fails(TAKES_ROOM) ? -1 : NEXT(writev)(handle, parts, count);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t length)
{
	char path[PATH_MAX];
	return of_handle(to, path) && fails(TAKES_ROOM) ? -1 : NEXT(sendfile64)(to, from, offset, length);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t length)
{
	return sendfile64(to, from, offset, length);
}

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *place, size_t length, unsigned flags)
{
	char path[PATH_MAX];
	return of_handle(to, path) && fails(TAKES_ROOM) ? -1 : NEXT(copy_file_range)(from, start, to, place, length, flags);
}

/* glibc's own calls of write() within stdio cannot be caught */
size_t fwrite(const void *data, size_t size, size_t count, FILE *file)
{
	char path[PATH_MAX];
	if (!of_handle(fileno(file), path) || !fails(TAKES_ROOM))
		return NEXT(fwrite)(data, size, count, file);
	return 0;
}

int ftruncate64(int handle, off64_t length)
{
	char path[PATH_MAX];
	if (!of_handle(handle, path))
		return NEXT(ftruncate64)(handle, length);
	if (fails(TAKES_ROOM))
		return -1;
	note("truncate", path, length, NULL, 0);
	return NEXT(ftruncate64)(handle, length);
}

int ftruncate(int handle, off_t length)
{
	return ftruncate64(handle, length);
}

/* --- putting on the disk --- */

static int sync_file(int handle, int (*next)(int))
{
	char path[PATH_MAX];
	if (!of_handle(handle, path))
		return next(handle);
	if (fails(TAKES_ROOM))
		return -1;
	note("sync", path, 0, NULL, 0);
	return next(handle);
}

int fsync(int handle)
{
	return sync_file(handle, NEXT(fsync));
}

int fdatasync(int handle)
{
	return sync_file(handle, NEXT(fdatasync));
}

int close(int handle)
{
	char path[PATH_MAX];
	int flags = orders && of_handle(handle, path) ? fcntl(handle, F_GETFL) : -1;
	int failed = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && fails(TAKES_ROOM), error = errno;
	int done = NEXT(close)(handle); /* a handle is gone, even if its close failed */
	if (failed)
		errno = error;
	return failed ? -1 : done;
}

/* --- names --- */

static int opens(int base, const char *name, int flags, mode_t mode)
{
	char path[PATH_MAX];
	int new = (flags & O_CREAT) && of_path(base, name, path) && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) < 0;
	if (new && fails(TAKES_ROOM))
		return -1;
	int handle = syscall(SYS_openat, base, name, flags, mode);
	if (handle >= 0 && new)
		note("create", path, 0, NULL, 0);
	else if (handle >= 0 && (flags & O_TRUNC) && of_path(base, name, path))
		note("truncate", path, 0, NULL, 0);
	return handle;
}

#define OPEN(name, first, base)                                        \
	int name(first const char *file, int flags, ...)               \
	{                                                              \
		va_list rest;                                          \
		va_start(rest, flags);                                 \
		mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0; \
		va_end(rest);                                          \
		return opens(base, file, flags, mode);                 \
	}
#define NOTHING
#define BASE int base,
OPEN(open, NOTHING, AT_FDCWD)
OPEN(open64, NOTHING, AT_FDCWD)
OPEN(openat, BASE, base)
OPEN(openat64, BASE, base)

int mkdir(const char *name, mode_t mode)
{
	char path[PATH_MAX];
	return of_path(AT_FDCWD, name, path) && fails(TAKES_ROOM) ? -1 : NEXT(mkdir)(name, mode);
}

static int renames(const char *kind, int old_base, const char *old, int new_base, const char *new, unsigned flags)
{
	char from[PATH_MAX], to[PATH_MAX], both[2 * PATH_MAX];
	of_path(old_base, old, from);
	if (of_path(new_base, new, to)) {
		if (fails(TAKES_A_NAME))
			return -1;
		snprintf(both, sizeof both, "%s\t%s", from, to);
		note(kind, to, 0, from, strlen(from));
	}
	return syscall(SYS_renameat2, old_base, old, new_base, new, flags);
}

int rename(const char *old, const char *new) { return renames("rename", AT_FDCWD, old, AT_FDCWD, new, 0); }

int renameat(int old_base, const char *old, int new_base, const char *new)
{
	return renames("rename", old_base, old, new_base, new, 0);
}

int renameat2(int old_base, const char *old, int new_base, const char *new, unsigned flags)
{
	return renames("rename", old_base, old, new_base, new, flags);
}

int link(const char *old, const char *new)
{
	char path[PATH_MAX];
	return of_path(AT_FDCWD, new, path) && fails(TAKES_ROOM) ? -1 : NEXT(link)(old, new);
}

int linkat(int old_base, const char *old, int new_base, const char *new, int flags)
{
	char path[PATH_MAX];
	return of_path(new_base, new, path) && fails(TAKES_ROOM) ? -1 : NEXT(linkat)(old_base, old, new_base, new, flags);
}

int symlink(const char *to, const char *name)
{
	char path[PATH_MAX];
	return of_path(AT_FDCWD, name, path) && fails(TAKES_ROOM) ? -1 : NEXT(symlink)(to, name);
}

int unlinkat(int base, const char *name, int flags)
{
	char path[PATH_MAX];
	int ours = of_path(base, name, path);
	if (ours && fails(MAKES_ROOM))
		return -1;
	int done = syscall(SYS_unlinkat, base, name, flags);
	if (ours && !done)
		note("unlink", path, 0, NULL, 0);
	return done;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

/* --- locks --- */

static int has_no_locks(int handle)
{
	char path[PATH_MAX];
	if (!orders || orders->at != -1 || !of_handle(handle, path))
		return 0;
	errno = ENOLCK;
	return 1;
}

int flock(int handle, int operation)
{
	return has_no_locks(handle) ? -1 : NEXT(flock)(handle, operation);
}

static int controls(int handle, int command, void *argument)
{
	int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
	return locks && has_no_locks(handle) ? -1 : (int)syscall(SYS_fcntl, handle, command, argument);
}

#define CONTROL(name)                                  \
	int name(int handle, int command, ...)         \
	{                                              \
		va_list rest;                          \
		va_start(rest, command);               \
		void *argument = va_arg(rest, void *); \
		va_end(rest);                          \
		return controls(handle, command, argument); \
	}
CONTROL(fcntl)
CONTROL(fcntl64)
