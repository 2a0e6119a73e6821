/*
 * A pretended libnvidia-ml.so.1 for hosts without a GPU. What it reports is read
 * from the text file named by HIVE_FAKENVML, and what is appended to it later;
 * fakenvml.go lists the statements. Numbers and structures follow the public
 * interface of NVML 13 (nvml.h).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int answer;
typedef unsigned int u32;
typedef unsigned long long u64;

enum {
	OK = 0, NOT_INITIALIZED = 1, BAD_ARGUMENT = 2, UNSUPPORTED = 3, ABSENT = 6,
	TOO_SMALL = 7, NO_DRIVER = 9, TIMED_OUT = 10, LOST = 15,
};

#define SLOTS 16
#define PARTS 8
#define HOLDERS 64
#define HAPPENINGS 1024
#define NOWHERE 0xFFFFFFFFu
#define UNTOLD 0xFFFFFFFFFFFFFFFFull
#define MIB (1024ull * 1024)
#define DOUBLE_BIT 0x2ull
#define XID 0x8ull

/* The kinds of question that a "fail" statement can make go wrong. */
static const char *const kinds[] = { "all", "memory", "processes", "sensors", "events", "wait", NULL };
enum kind { ALL, MEMORY, PROCESSES, SENSORS, EVENTS, WAIT, KINDS };

struct holder { u32 pid; u64 bytes; int while_alive; };

/* A GPU, or (with whole set) a MIG part of one. An empty uuid means: not there. */
struct card {
	char uuid[80], name[96];
	struct card *whole;
	u64 total, reserved, used, ecc_mask;
	u32 busy, celsius, milliwatt, instance, compute;
	int mig, fails[KINDS];
	struct holder holders[HOLDERS];
	int holding;
};

struct happening { int slot; u64 what, number; u32 instance, compute; };

struct world {
	int init, slow_ms, count;
	struct card cards[SLOTS], parts[SLOTS][PARTS];
	struct happening happened[HAPPENINGS];
};

struct watch { u64 wanted[SLOTS]; int next; };

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static struct world world;
static long read_until = -1;
static char heading[512];     /* the first line: another one is another file */
static int opened;            /* inits not yet shut down */
static long inits;            /* inits ever */
static long stale_since[SLOTS]; /* 1 + inits when a "stale" statement was first read */

/* ---- the file ---- */

static void forget_world(void)
{
	memset(&world, 0, sizeof world);
	read_until = 0;
}

/* "3" is the GPU in slot 3, "3.1" its MIG part 1. */
static struct card *named(const char *word)
{
	int slot = -1, part = -1;
	int n = sscanf(word, "%d.%d", &slot, &part);

	if (n < 1 || slot < 0 || slot >= SLOTS)
		return NULL;
	if (n == 1)
		return &world.cards[slot];
	if (part < 0 || part >= PARTS)
		return NULL;
	world.parts[slot][part].whole = &world.cards[slot];
	return &world.parts[slot][part];
}

static void describe(struct card *c, char *words)
{
	char *rest = NULL;

	for (char *w = strtok_r(words, " ", &rest); w; w = strtok_r(NULL, " ", &rest)) {
		char *is = strchr(w, '=');
		u64 n;

		if (!is)
			continue;
		*is++ = 0;
		n = strtoull(is, NULL, 10);
		if (!strcmp(w, "uuid")) snprintf(c->uuid, sizeof c->uuid, "%s", is);
		else if (!strcmp(w, "name")) {
			snprintf(c->name, sizeof c->name, "%s", is);
			for (char *p = c->name; (p = strchr(p, '_')); *p = ' ') {}
		}
		else if (!strcmp(w, "total")) c->total = n * MIB;
		else if (!strcmp(w, "reserved")) c->reserved = n * MIB;
		else if (!strcmp(w, "used")) c->used = n * MIB;
		else if (!strcmp(w, "busy")) c->busy = (u32)n;
		else if (!strcmp(w, "celsius")) c->celsius = (u32)n;
		else if (!strcmp(w, "milliwatt")) c->milliwatt = (u32)n;
		else if (!strcmp(w, "instance")) c->instance = (u32)n;
		else if (!strcmp(w, "compute")) c->compute = (u32)n;
		else if (!strcmp(w, "mig")) c->mig = (int)n;
		else if (!strcmp(w, "ecc")) c->ecc_mask = n ? DOUBLE_BIT : 0;
		else fprintf(stderr, "fakenvml: no such property: %s\n", w);
	}
}

static void hold(struct card *c, const char *words, int while_alive)
{
	u32 pid = 0;
	char amount[32] = "";
	int i = 0;

	if (sscanf(words, "%u %31s", &pid, amount) != 2)
		return;
	while (i < c->holding && c->holders[i].pid != pid)
		i++;
	if (!strcmp(amount, "0")) {
		if (i < c->holding)
			c->holders[i] = c->holders[--c->holding];
	} else if (i < HOLDERS) {
		u64 bytes = !strcmp(amount, "?") ? UNTOLD : strtoull(amount, NULL, 10) * MIB;
		c->holders[i] = (struct holder){ pid, bytes, while_alive };
		if (i == c->holding)
			c->holding++;
	}
}

static void happen(int slot, const char *words)
{
	char what[16] = "";
	struct happening h = { .slot = slot, .instance = NOWHERE, .compute = NOWHERE };

	if (sscanf(words, "%15s %llu %u %u", what, &h.number, &h.instance, &h.compute) < 1)
		return;
	h.what = !strcmp(what, "xid") ? XID : DOUBLE_BIT;
	if (world.count < HAPPENINGS)
		world.happened[world.count++] = h;
}

static void obey(char *line)
{
	char verb[16] = "", whom[16] = "", kind[16] = "";
	int at = 0, number = 0;
	struct card *c;

	line[strcspn(line, "\n")] = 0;
	if (sscanf(line, " %15s", verb) != 1 || verb[0] == '#')
		return;
	if (!strcmp(verb, "init")) { sscanf(line, " init %d", &world.init); return; }
	if (!strcmp(verb, "slow")) { sscanf(line, " slow %d", &world.slow_ms); return; }
	if (sscanf(line, " %15s %15s %n", verb, whom, &at) < 2 || !(c = named(whom)))
		return;
	if (!at)
		at = (int)strlen(line);
	if (!strcmp(verb, "card")) describe(c, line + at);
	else if (!strcmp(verb, "gone")) memset(c, 0, sizeof *c);
	else if (!strcmp(verb, "holds")) hold(c, line + at, 0);
	else if (!strcmp(verb, "runs")) hold(c, line + at, 1);
	else if (!strcmp(verb, "event")) happen(atoi(whom), line + at);
	else if (!strcmp(verb, "lost")) c->fails[ALL] = LOST;
	else if (!strcmp(verb, "well")) memset(c->fails, 0, sizeof c->fails);
	else if (!strcmp(verb, "stale")) stale_since[atoi(whom)] = inits + 1;
	else if (!strcmp(verb, "fail") && sscanf(line + at, "%15s %d", kind, &number) == 2) {
		for (int k = 0; kinds[k]; k++)
			if (!strcmp(kind, kinds[k]))
				c->fails[k] = number;
	} else fprintf(stderr, "fakenvml: not understood: %s\n", line);
}

/* Take in what was appended since; another file is taken in from its start. */
static void look(void)
{
	const char *path = getenv("HIVE_FAKENVML");
	FILE *f = path ? fopen(path, "re") : NULL;
	char line[512] = "";

	if (!f || !fgets(line, sizeof line, f)) {
		forget_world();
		world.init = NO_DRIVER;
		read_until = -1;
		if (f)
			fclose(f);
		return;
	}
	if (read_until < 0 || strcmp(line, heading)) {
		forget_world();
		memset(stale_since, 0, sizeof stale_since);
		strcpy(heading, line);
	}
	fseek(f, read_until, SEEK_SET);
	while (fgets(line, sizeof line, f) && strchr(line, '\n')) {
		read_until = ftell(f);
		obey(line);
	}
	fclose(f);
}

static void nap(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000l };
	nanosleep(&t, NULL);
}

static answer begin(void)
{
	int slow;

	pthread_mutex_lock(&guard);
	look();
	slow = world.slow_ms;
	if (slow) {
		pthread_mutex_unlock(&guard);
		nap(slow);
		pthread_mutex_lock(&guard);
		look();
	}
	return opened ? OK : NOT_INITIALIZED;
}

static answer end(answer a)
{
	pthread_mutex_unlock(&guard);
	return a;
}

static int slot_of(const struct card *c)
{
	return (int)((c->whole ? c->whole : c) - world.cards);
}

/* Why a question of this kind about c fails now; OK when it does not. */
static answer trouble(const struct card *c, enum kind k)
{
	const struct card *top = c->whole ? c->whole : c;

	if (stale_since[slot_of(c)] == inits + 1)
		return LOST;
	if (top->fails[ALL])
		return top->fails[ALL];
	if (!c->uuid[0])
		return BAD_ARGUMENT;
	return top->fails[k] ? top->fails[k] : c->fails[k];
}

/* The GPU that the driver counts as number i, NULL when there are fewer. */
static struct card *at_index(u32 i)
{
	for (int s = 0; s < SLOTS; s++)
		if (world.cards[s].uuid[0] && i-- == 0)
			return &world.cards[s];
	return NULL;
}

static u32 index_of(const struct card *c)
{
	u32 n = 0;
	for (const struct card *o = world.cards; o < (c->whole ? c->whole : c); o++)
		n += o->uuid[0] != 0;
	return n;
}

static answer text(char *to, u32 room, const char *from)
{
	if (strlen(from) >= room)
		return TOO_SMALL;
	strcpy(to, from);
	return OK;
}

static int listed(const struct holder *h)
{
	char path[40], line[400] = "", *after;
	FILE *f;

	if (!h->while_alive)
		return 1;
	snprintf(path, sizeof path, "/proc/%u/stat", h->pid);
	if (!(f = fopen(path, "re")))
		return 0;
	after = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
	fclose(f);
	return after && strlen(after) > 2 && after[2] != 'Z' && after[2] != 'X';
}

static u64 in_use(const struct card *c)
{
	u64 sum = c->used;
	for (int i = 0; i < c->holding; i++)
		if (listed(&c->holders[i]) && c->holders[i].bytes != UNTOLD)
			sum += c->holders[i].bytes;
	return sum;
}

/* ---- what go-nvml calls ---- */

answer nvmlInit_v2(void)
{
	answer a;
	begin();
	if (!(a = world.init)) {
		opened++;
		inits++;
	}
	return end(a);
}

answer nvmlShutdown(void)
{
	answer a = begin();
	if (!a)
		opened--;
	return end(a);
}

const char *nvmlErrorString(answer a)
{
	switch (a) {
	case OK: return "Success";
	case UNSUPPORTED: return "Not Supported";
	case ABSENT: return "Not Found";
	case NO_DRIVER: return "Driver Not Loaded";
	case TIMED_OUT: return "Timeout";
	case LOST: return "GPU is lost";
	default: return "Unknown Error";
	}
}

answer nvmlSystemGetDriverVersion(char *to, u32 room)
{
	answer a = begin();
	return end(a ? a : text(to, room, "580.0-fake"));
}

answer nvmlDeviceGetCount_v2(u32 *n)
{
	answer a = begin();
	for (*n = 0; !a && at_index(*n); ++*n) {}
	return end(a);
}

answer nvmlDeviceGetHandleByIndex_v2(u32 i, struct card **out)
{
	answer a = begin();
	if (!a && !(*out = at_index(i)))
		a = BAD_ARGUMENT;
	return end(a ? a : trouble(*out, ALL));
}

answer nvmlDeviceGetHandleByUUID(const char *uuid, struct card **out)
{
	answer a = begin();
	struct card *found = NULL;

	for (int s = 0; !a && s < SLOTS; s++) {
		if (!strcmp(world.cards[s].uuid, uuid))
			found = &world.cards[s];
		for (int p = 0; p < PARTS; p++)
			if (!strcmp(world.parts[s][p].uuid, uuid))
				found = &world.parts[s][p];
	}
	if (!a)
		a = found ? trouble(found, ALL) : ABSENT;
	if (!a)
		*out = found;
	return end(a);
}

/* The frame of every question about one card. */
#define ASK(kind, ...) \
	answer a = begin(); \
	if (!a) a = trouble(c, kind); \
	if (!a) { __VA_ARGS__; } \
	return end(a)

answer nvmlDeviceGetIndex(struct card *c, u32 *v) { ASK(ALL, *v = index_of(c)); }
answer nvmlDeviceGetName(struct card *c, char *to, u32 room) { ASK(ALL, a = text(to, room, c->name)); }
answer nvmlDeviceGetUUID(struct card *c, char *to, u32 room) { ASK(ALL, a = text(to, room, c->uuid)); }
answer nvmlDeviceGetTemperature(struct card *c, int which, u32 *v) { ASK(SENSORS, (void)which; if (c->whole) a = UNSUPPORTED; else *v = c->celsius); }
answer nvmlDeviceGetPowerUsage(struct card *c, u32 *v) { ASK(SENSORS, if (c->whole) a = UNSUPPORTED; else *v = c->milliwatt); }

struct rates { u32 gpu, memory; };
answer nvmlDeviceGetUtilizationRates(struct card *c, struct rates *v)
{
	ASK(SENSORS, if (c->whole || c->mig) a = UNSUPPORTED; else *v = (struct rates){ c->busy, 0 });
}

struct place { char old_bus[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
answer nvmlDeviceGetPciInfo_v3(struct card *c, struct place *p)
{
	ASK(ALL, memset(p, 0, sizeof *p); p->bus = (u32)slot_of(c) + 1;
	    snprintf(p->bus_id, sizeof p->bus_id, "00000000:%02X:00.0", p->bus & 255));
}

struct amounts { u64 total, free, used; };
answer nvmlDeviceGetMemoryInfo(struct card *c, struct amounts *m)
{
	ASK(MEMORY, m->total = c->total; m->used = in_use(c) + c->reserved; m->free = m->total - m->used);
}

struct amounts_v2 { u32 version; u64 total, reserved, free, used; };
answer nvmlDeviceGetMemoryInfo_v2(struct card *c, struct amounts_v2 *m)
{
	ASK(MEMORY, m->total = c->total; m->reserved = c->reserved; m->used = in_use(c);
	    m->free = m->total - m->reserved - m->used);
}

struct user { u32 pid; u64 bytes; u32 instance, compute; };
answer nvmlDeviceGetComputeRunningProcesses_v3(struct card *c, u32 *count, struct user *out)
{
	ASK(PROCESSES,
	    u32 n = 0;
	    for (int i = 0; i < c->holding; i++)
		if (listed(&c->holders[i])) {
			if (n < *count)
				out[n] = (struct user){ c->holders[i].pid, c->holders[i].bytes, NOWHERE, NOWHERE };
			n++;
		}
	    if (n > *count) a = TOO_SMALL;
	    *count = n);
}

answer nvmlDeviceGetGraphicsRunningProcesses_v3(struct card *c, u32 *count, struct user *out)
{
	ASK(PROCESSES, (void)out; *count = 0);
}

/* ---- MIG ---- */

answer nvmlDeviceGetMigMode(struct card *c, u32 *now, u32 *next)
{
	ASK(ALL, if (c->whole) a = BAD_ARGUMENT; else *now = *next = (u32)c->mig);
}

answer nvmlDeviceGetMaxMigDeviceCount(struct card *c, u32 *n) { ASK(ALL, *n = c->mig ? PARTS : 0); }

answer nvmlDeviceGetMigDeviceHandleByIndex(struct card *c, u32 i, struct card **out)
{
	ASK(ALL, if (i >= PARTS || !world.parts[slot_of(c)][i].uuid[0]) a = ABSENT;
	    else *out = &world.parts[slot_of(c)][i]);
}

answer nvmlDeviceGetGpuInstanceId(struct card *c, u32 *id) { ASK(ALL, if (!c->whole) a = UNSUPPORTED; else *id = c->instance); }
answer nvmlDeviceGetComputeInstanceId(struct card *c, u32 *id) { ASK(ALL, if (!c->whole) a = UNSUPPORTED; else *id = c->compute); }

/* ---- events ---- */

answer nvmlDeviceGetSupportedEventTypes(struct card *c, u64 *types) { ASK(EVENTS, *types = XID | c->ecc_mask); }

answer nvmlEventSetCreate(struct watch **out)
{
	answer a = begin();
	if (!a && (*out = calloc(1, sizeof **out)))
		(*out)->next = world.count; /* only what comes from now on */
	return end(a);
}

answer nvmlDeviceRegisterEvents(struct card *c, u64 types, struct watch *w)
{
	ASK(EVENTS, if (c->whole || types & ~(XID | c->ecc_mask)) a = UNSUPPORTED;
	    else w->wanted[slot_of(c)] |= types);
}

answer nvmlEventSetFree(struct watch *w)
{
	free(w);
	return OK;
}

struct told { struct card *card; u64 what, number; u32 instance, compute; };

static answer next_told(struct watch *w, struct told *out)
{
	answer a = begin();

	while (!a && w->next < world.count) {
		const struct happening *h = &world.happened[w->next++];
		if (h->slot < 0 || h->slot >= SLOTS || !(w->wanted[h->slot] & h->what))
			continue;
		*out = (struct told){ &world.cards[h->slot], h->what, h->number, h->instance, h->compute };
		return end(OK);
	}
	for (int s = 0; !a && s < SLOTS; s++)
		if (w->wanted[s])
			a = trouble(&world.cards[s], WAIT);
	return end(a ? a : TIMED_OUT);
}

answer nvmlEventSetWait_v2(struct watch *w, struct told *out, u32 ms)
{
	answer a;
	for (u32 waited = 0; (a = next_told(w, out)) == TIMED_OUT && waited < ms; waited += 5)
		nap(5);
	return a;
}
