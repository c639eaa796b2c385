/*
 * The CNI plugin as container runtimes see it: hands the call to the agent of this node and prints its answer. All that
 * takes knowledge of networks is done by the agent (cni/verbs.ts); this program only has to start fast and never to hang.
 *
 * The frames are described in cni/frame.ts. VERSION is answered here, since it must work without an agent. Errors follow
 * the CNI specification 1.1.0, "Error": an object on standard output and exit status 1.
 *
 * Built without any library but the C library, statically, as it runs in the file system of the host.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/midonet/cni.sock"
#define NEWEST_VERSION "1.1.0"
/* The same list as in cni/versions.ts. */
#define SUPPORTED_VERSIONS "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""

#define MAX_STDIN (1024 * 1024)
#define MAX_ENVIRONMENT (64 * 1024)
#define MAX_STDOUT (4 * 1024 * 1024)
#define MAX_STDERR (64 * 1024)
#define HEADER 16

/* The whole call. An agent that is down is given up earlier, one that is just restarting is waited for. */
#define CALL_MS 60000
#define CONNECT_MS 1000
#define CONNECT_PAUSE_MS 20
#define VERSION_MS 1000

/* Error codes of the specification. */
#define CODE_ENVIRONMENT 4
#define CODE_IO 5
#define CODE_DECODE 6
#define CODE_CONFIG 7
#define CODE_TRY_LATER 11
#define CODE_NOT_AVAILABLE 50

static unsigned char input[MAX_STDIN + 1];
static unsigned char request_head[HEADER + MAX_ENVIRONMENT];
static char cni_version[32] = NEWEST_VERSION;
static char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)] = DEFAULT_SOCKET;

static int64_t now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Writes to a file descriptor that may block; returns false when it is closed or broken. */
static bool write_all(int fd, const void *data, size_t length)
{
	const unsigned char *bytes = data;
	while (length > 0) {
		ssize_t written = write(fd, bytes, length);
		if (written < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN) {
				struct pollfd ready = {.fd = fd, .events = POLLOUT};
				poll(&ready, 1, -1);
				continue;
			}
			return false;
		}
		bytes += written;
		length -= (size_t)written;
	}
	return true;
}

/* JSON text of a string. Bytes outside ASCII may be cut UTF-8 and are left out. */
static size_t append_escaped(char *out, size_t size, size_t at, const char *text)
{
	for (; *text != '\0' && at + 7 < size; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			at += (size_t)snprintf(out + at, size - at, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			at += (size_t)snprintf(out + at, size - at, "\\u%04x", c);
		else
			out[at++] = c < 0x80 ? (char)c : '?';
	}
	return at;
}

/* Prints an error object and ends the program. */
__attribute__((format(printf, 2, 3), noreturn)) static void fail(int code, const char *format, ...)
{
	char message[1024];
	char out[8192];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);

	size_t at = (size_t)snprintf(out, sizeof(out), "{\"cniVersion\":\"");
	at = append_escaped(out, sizeof(out) - 64, at, cni_version);
	at += (size_t)snprintf(out + at, sizeof(out) - at, "\",\"code\":%d,\"msg\":\"", code);
	at = append_escaped(out, sizeof(out) - 8, at, message);
	at += (size_t)snprintf(out + at, sizeof(out) - at, "\"}\n");
	write_all(STDOUT_FILENO, out, at);
	exit(1);
}

/* Waits until `fd` is ready for `events`; false when the deadline has passed. */
static bool wait_ready(int fd, short events, int64_t deadline)
{
	for (;;) {
		int64_t left = deadline - now_ms();
		if (left <= 0)
			return false;
		struct pollfd ready = {.fd = fd, .events = events};
		int count = poll(&ready, 1, (int)left);
		if (count > 0)
			return true;
		if (count < 0 && errno != EINTR)
			return true; /* The read or write that follows reports it. */
	}
}

/* Reads standard input to its end; -1 on error with errno, ETIMEDOUT when the deadline has passed. */
static ssize_t read_stdin(int64_t deadline)
{
	size_t length = 0;
	while (length < sizeof(input)) {
		if (!wait_ready(STDIN_FILENO, POLLIN, deadline)) {
			errno = ETIMEDOUT;
			return -1;
		}
		ssize_t got = read(STDIN_FILENO, input + length, sizeof(input) - length);
		if (got == 0)
			break;
		if (got < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return -1;
		}
		length += (size_t)got;
	}
	return (ssize_t)length;
}

/* ---- the two top-level strings of the configuration that are needed here ---- */

struct scanner {
	const unsigned char *at;
	const unsigned char *end;
};

/* A decoded string; cut at the size of the buffer. */
struct text {
	char bytes[128];
	size_t length;
	bool cut;
};

static void skip_space(struct scanner *scan)
{
	while (scan->at < scan->end &&
	       (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r'))
		scan->at++;
}

static void append_byte(struct text *text, unsigned char byte)
{
	if (text->length + 1 < sizeof(text->bytes))
		text->bytes[text->length++] = (char)byte;
	else
		text->cut = true;
}

static void append_code_point(struct text *text, uint32_t point)
{
	if (point < 0x80) {
		append_byte(text, (unsigned char)point);
	} else if (point < 0x800) {
		append_byte(text, (unsigned char)(0xc0 | point >> 6));
		append_byte(text, (unsigned char)(0x80 | (point & 0x3f)));
	} else if (point < 0x10000) {
		append_byte(text, (unsigned char)(0xe0 | point >> 12));
		append_byte(text, (unsigned char)(0x80 | (point >> 6 & 0x3f)));
		append_byte(text, (unsigned char)(0x80 | (point & 0x3f)));
	} else {
		append_byte(text, (unsigned char)(0xf0 | point >> 18));
		append_byte(text, (unsigned char)(0x80 | (point >> 12 & 0x3f)));
		append_byte(text, (unsigned char)(0x80 | (point >> 6 & 0x3f)));
		append_byte(text, (unsigned char)(0x80 | (point & 0x3f)));
	}
}

static bool scan_hex(struct scanner *scan, uint32_t *value)
{
	*value = 0;
	if (scan->end - scan->at < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		unsigned char c = *scan->at++;
		uint32_t digit;
		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			return false;
		*value = *value << 4 | digit;
	}
	return true;
}

/* A string with its quotes (RFC 8259 section 7), decoded into `text`. */
static bool scan_string(struct scanner *scan, struct text *text)
{
	static const char escapes[] = "\"\\/bfnrt";
	static const char meanings[] = "\"\\/\b\f\n\r\t";
	text->length = 0;
	text->cut = false;
	if (scan->at >= scan->end || *scan->at != '"')
		return false;
	scan->at++;
	while (scan->at < scan->end) {
		unsigned char c = *scan->at++;
		if (c == '"') {
			text->bytes[text->length] = '\0';
			return true;
		}
		if (c < 0x20)
			return false;
		if (c != '\\') {
			append_byte(text, c);
			continue;
		}
		if (scan->at >= scan->end)
			return false;
		c = *scan->at++;
		if (c == 'u') {
			uint32_t point, low;
			if (!scan_hex(scan, &point))
				return false;
			if (point >= 0xd800 && point < 0xdc00 && scan->end - scan->at >= 6 && scan->at[0] == '\\' &&
			    scan->at[1] == 'u') {
				scan->at += 2;
				if (!scan_hex(scan, &low))
					return false;
				if (low >= 0xdc00 && low < 0xe000)
					point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
			}
			append_code_point(text, point);
			continue;
		}
		const char *found = c == '\0' ? NULL : strchr(escapes, c);
		if (found == NULL)
			return false;
		append_byte(text, (unsigned char)meanings[found - escapes]);
	}
	return false;
}

/* Passes over a value of any type. Nesting is only counted: the agent parses the text in full. */
static bool skip_value(struct scanner *scan)
{
	struct text ignored;
	size_t depth = 0;
	do {
		skip_space(scan);
		if (scan->at >= scan->end)
			return false;
		unsigned char c = *scan->at;
		if (c == '"') {
			if (!scan_string(scan, &ignored))
				return false;
		} else if (c == '{' || c == '[') {
			depth++;
			scan->at++;
		} else if (c == '}' || c == ']') {
			if (depth == 0)
				return false;
			depth--;
			scan->at++;
		} else if (c == ',' || c == ':') {
			if (depth == 0)
				return false;
			scan->at++;
		} else if (c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')) {
			while (scan->at < scan->end && strchr(" \t\n\r,:]}[{\"", *scan->at) == NULL)
				scan->at++;
		} else {
			return false;
		}
		skip_space(scan);
	} while (depth > 0);
	return true;
}

/*
 * Finds `cniVersion` and `socket` among the members of the top-level object; of several of one name the last counts, as
 * in JSON.parse. False when the text cannot be JSON; what is wrong inside members is left to the agent.
 */
static bool scan_config(const unsigned char *bytes, size_t length, const char **fault)
{
	struct scanner scan = {bytes, bytes + length};
	*fault = NULL;
	skip_space(&scan);
	if (scan.at >= scan.end || *scan.at != '{')
		return false;
	scan.at++;
	skip_space(&scan);
	if (scan.at < scan.end && *scan.at == '}') {
		scan.at++;
	} else {
		for (;;) {
			struct text key, value;
			skip_space(&scan);
			if (!scan_string(&scan, &key))
				return false;
			skip_space(&scan);
			if (scan.at >= scan.end || *scan.at++ != ':')
				return false;
			skip_space(&scan);
			bool is_string = scan.at < scan.end && *scan.at == '"';
			if (is_string ? !scan_string(&scan, &value) : !skip_value(&scan))
				return false;
			if (!key.cut && key.length == 10 && memcmp(key.bytes, "cniVersion", 10) == 0) {
				if (is_string && !value.cut && value.length < sizeof(cni_version))
					strcpy(cni_version, value.bytes);
			} else if (!key.cut && key.length == 6 && memcmp(key.bytes, "socket", 6) == 0) {
				*fault = NULL;
				if (!is_string || value.cut || value.length >= sizeof(socket_path) ||
				    value.bytes[0] != '/' || strlen(value.bytes) != value.length)
					*fault = "socket: expected an absolute path of at most 107 bytes";
				else
					strcpy(socket_path, value.bytes);
			}
			skip_space(&scan);
			if (scan.at >= scan.end)
				return false;
			unsigned char c = *scan.at++;
			if (c == '}')
				break;
			if (c != ',')
				return false;
		}
	}
	skip_space(&scan);
	return scan.at == scan.end;
}

/* ---- the call ---- */

static bool is_passed_on(const char *entry)
{
	return strncmp(entry, "CNI_", 4) == 0 || strncmp(entry, "TRACEPARENT=", 12) == 0 ||
	       strncmp(entry, "TRACESTATE=", 11) == 0 || strncmp(entry, "BAGGAGE=", 8) == 0;
}

static void put_u32(unsigned char *at, uint32_t value)
{
	at[0] = (unsigned char)(value >> 24);
	at[1] = (unsigned char)(value >> 16);
	at[2] = (unsigned char)(value >> 8);
	at[3] = (unsigned char)value;
}

static uint32_t get_u32(const unsigned char *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Header and environment of the request; returns their length. */
static size_t build_request(size_t stdin_length)
{
	size_t length = HEADER;
	for (char **entry = environ; *entry != NULL; entry++) {
		if (!is_passed_on(*entry))
			continue;
		size_t size = strlen(*entry) + 1;
		if (size > sizeof(request_head) - length)
			fail(CODE_ENVIRONMENT, "%.*s: the environment has more than %d bytes",
			     (int)strcspn(*entry, "="), *entry, MAX_ENVIRONMENT);
		memcpy(request_head + length, *entry, size);
		length += size;
	}
	memcpy(request_head, "MNC1", 4);
	put_u32(request_head + 4, (uint32_t)getpid());
	put_u32(request_head + 8, (uint32_t)(length - HEADER));
	put_u32(request_head + 12, (uint32_t)stdin_length);
	return length;
}

/* The agent cannot be asked. STATUS has a code of its own for that. */
__attribute__((noreturn)) static void fail_unavailable(const char *command, const char *what, const char *reason)
{
	int code = strcmp(command, "STATUS") == 0 ? CODE_NOT_AVAILABLE : CODE_TRY_LATER;
	fail(code, "the MidoNet agent at %s %s%s%s", socket_path, what, reason == NULL ? "" : ": ",
	     reason == NULL ? "" : reason);
}

/* A connection to the agent. It is waited for while it restarts, but not by STATUS, which asks how things are now. */
static int connect_agent(const char *command, int64_t deadline)
{
	int64_t give_up = now_ms() + CONNECT_MS;
	if (give_up > deadline)
		give_up = deadline;
	if (strcmp(command, "STATUS") == 0)
		give_up = 0;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, socket_path);
	for (;;) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			fail_unavailable(command, "cannot be reached", strerror(errno));
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
			return fd;
		int error = errno;
		close(fd);
		bool passing = error == ENOENT || error == ECONNREFUSED || error == EAGAIN || error == EINTR;
		if (!passing || now_ms() + CONNECT_PAUSE_MS > give_up)
			fail_unavailable(command, "cannot be reached", strerror(error));
		struct timespec pause = {.tv_nsec = CONNECT_PAUSE_MS * 1000000L};
		nanosleep(&pause, NULL);
	}
}

static void send_all(int fd, const char *command, const unsigned char *bytes, size_t length, int64_t deadline)
{
	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
		if (sent >= 0) {
			bytes += sent;
			length -= (size_t)sent;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			fail_unavailable(command, "closed the connection", strerror(errno));
		if (!wait_ready(fd, POLLOUT, deadline))
			fail_unavailable(command, "does not answer in time", NULL);
	}
}

static void receive_all(int fd, const char *command, unsigned char *bytes, size_t length, int64_t deadline)
{
	while (length > 0) {
		ssize_t got = recv(fd, bytes, length, 0);
		if (got > 0) {
			bytes += got;
			length -= (size_t)got;
			continue;
		}
		if (got == 0)
			fail_unavailable(command, "closed the connection before it answered", NULL);
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			fail_unavailable(command, "closed the connection", strerror(errno));
		if (!wait_ready(fd, POLLIN, deadline))
			fail_unavailable(command, "does not answer in time", NULL);
	}
}

static int64_t call_milliseconds(void)
{
	const char *text = getenv("MIDONET_CNI_TIMEOUT_MS");
	if (text == NULL)
		return CALL_MS;
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	if (*text == '\0' || *end != '\0' || errno != 0 || value < 1 || value > 3600000)
		fail(CODE_ENVIRONMENT, "MIDONET_CNI_TIMEOUT_MS: expected 1 to 3600000 milliseconds, got \"%.64s\"", text);
	return value;
}

static int answer_version(void)
{
	const char *fault;
	/* A version is reported whatever is on standard input, and even when nothing is. */
	ssize_t length = isatty(STDIN_FILENO) ? 0 : read_stdin(now_ms() + VERSION_MS);
	if (length > 0 && !scan_config(input, (size_t)length, &fault))
		strcpy(cni_version, NEWEST_VERSION);
	char out[512];
	size_t at = (size_t)snprintf(out, sizeof(out), "{\"cniVersion\":\"");
	at = append_escaped(out, sizeof(out) - 128, at, cni_version);
	at += (size_t)snprintf(out + at, sizeof(out) - at, "\",\"supportedVersions\":[%s]}\n", SUPPORTED_VERSIONS);
	return write_all(STDOUT_FILENO, out, at) ? 0 : 1;
}

int main(void)
{
	const char *command = getenv("CNI_COMMAND");
	if (command == NULL || *command == '\0') {
		fputs("MidoNet CNI plugin: connects containers to virtual networks\n"
		      "CNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n",
		      stderr);
		return 0;
	}
	if (strcmp(command, "VERSION") == 0)
		return answer_version();

	int64_t deadline = now_ms() + call_milliseconds();
	ssize_t length = read_stdin(deadline);
	if (length < 0)
		fail(CODE_IO, "cannot read the network configuration from standard input: %s", strerror(errno));
	if (length > MAX_STDIN)
		fail(CODE_IO, "the network configuration has more than %d bytes", MAX_STDIN);
	const char *fault;
	if (!scan_config(input, (size_t)length, &fault))
		fail(CODE_DECODE, "the network configuration on standard input is not a JSON object");
	if (fault != NULL)
		fail(CODE_CONFIG, "%s", fault);

	size_t head = build_request((size_t)length);
	int fd = connect_agent(command, deadline);
	send_all(fd, command, request_head, head, deadline);
	send_all(fd, command, input, (size_t)length, deadline);

	unsigned char header[HEADER];
	receive_all(fd, command, header, sizeof(header), deadline);
	uint32_t status = get_u32(header + 4);
	uint32_t out_length = get_u32(header + 8);
	uint32_t error_length = get_u32(header + 12);
	if (memcmp(header, "MNR1", 4) != 0 || status > 255 || out_length > MAX_STDOUT || error_length > MAX_STDERR)
		fail_unavailable(command, "sent an answer that cannot be read", NULL);
	size_t answer_length = (size_t)out_length + error_length;
	unsigned char *answer = malloc(answer_length + 1);
	if (answer == NULL)
		fail_unavailable(command, "sent an answer that does not fit in memory", NULL);
	receive_all(fd, command, answer, answer_length, deadline);
	close(fd);
	write_all(STDERR_FILENO, answer + out_length, error_length);
	if (!write_all(STDOUT_FILENO, answer, out_length))
		return 1;
	return (int)status;
}
