package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// never is the value of a moment that was not asked for.
const never = time.Duration(-1)

// habits is everything the command line can ask for. Durations count from the
// start of the process unless the text says otherwise.
type habits struct {
	// Loading.
	load        time.Duration
	loadStallAt float64
	sayReady    string
	notify      bool
	doubleReady bool
	extend      time.Duration
	status      string

	// Serving.
	host, port string
	noListen   bool
	bindFail   bool
	inFlight   int64
	tokenRate  float64 // per second
	logLines   float64
	accessLog  bool
	say        words

	// Crashing.
	crashAfter    time.Duration
	crashOnReady  bool
	crashEvery    time.Duration
	crashChance   float64
	crashAttempts uint64
	crashUnless   string
	exitCode      int
	signalSelf    string

	// Hanging.
	hang       time.Duration
	wedgeAfter time.Duration
	lie        bool
	leak       string
	leakMax    string
	leakBytes  uint64
	leakLimit  uint64

	// Ending.
	ignoreTerm  bool
	slowExit    time.Duration
	termCode    int
	refuseDrain bool

	// Offspring.
	grandchild     bool
	daemonizeChild bool
	clearEnv       bool
	holdStdout     bool
	zombies        int
	offspringLife  time.Duration
	mark           string
	role           string

	// Callbacks.
	callbacks       bool
	notifyProgress  bool
	heartbeatEvery  time.Duration
	heartbeatsAsked bool // heartbeatEvery was written, and is no default
	muteAfter       time.Duration
}

// words collects a flag that may be given several times.
type words []string

func (w *words) String() string     { return strings.Join(*w, ", ") }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

// group is a heading of --help and the flags under it.
type group struct {
	title string
	flags []string
}

// parse reads the command line. The error is flag.ErrHelp after --help.
func parse(args []string, out io.Writer) (habits, error) {
	var h habits
	fs := flag.NewFlagSet("fakeworker", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // main says it once, in one sentence
	var groups []group
	section := func(title string) { groups = append(groups, group{title: title}) }
	add := func(name string) string {
		g := &groups[len(groups)-1]
		g.flags = append(g.flags, name)
		return name
	}

	section("Loading")
	fs.DurationVar(&h.load, add("load"), 0, "be loading for this long: /health says 503, stdout gets `progress 0.42` lines")
	fs.Float64Var(&h.loadStallAt, add("load-stall-at"), -1, "stop loading for good at this fraction, such as 0.6")
	fs.StringVar(&h.sayReady, add("say-ready"), "server is listening", "the line printed when ready")
	fs.BoolVar(&h.notify, add("notify"), false, "send READY=1 to NOTIFY_SOCKET when ready; with --heartbeat-every and without --callbacks, heartbeats and progress too; POST /notify sends its body there")
	fs.BoolVar(&h.doubleReady, add("double-ready"), false, "say that it is ready twice, in every way it says it at all")
	fs.DurationVar(&h.extend, add("extend"), 0, "ask hive once, at the start, for this long to load")
	fs.StringVar(&h.status, add("status"), "", "send this text as STATUS= to NOTIFY_SOCKET at the start")

	section("Serving")
	fs.StringVar(&h.host, add("host"), or(os.Getenv("HOST"), "127.0.0.1"), "address to listen on")
	fs.StringVar(&h.port, add("port"), os.Getenv("PORT"), "port to listen on; empty listens on none")
	fs.BoolVar(&h.noListen, add("no-listen"), false, "listen on no port although there is one")
	fs.BoolVar(&h.bindFail, add("bind-fail"), false, "say that the port is in use and exit 1")
	fs.Int64Var(&h.inFlight, add("in-flight"), 0, "requests in flight from ready on; POST /in-flight?n=3 changes it")
	fs.Float64Var(&h.tokenRate, add("tokens"), 0, "tokens per second while a request is in flight, in heartbeats and /metrics")
	fs.Float64Var(&h.logLines, add("log-lines"), 0, "numbered log lines per second on stdout")
	fs.BoolVar(&h.accessLog, add("access-log"), false, "print a line for each request")
	fs.Var(&h.say, add("say"), "print this line on stderr at the start; may be given again")

	section("Crashing")
	fs.DurationVar(&h.crashAfter, add("crash-after"), never, "crash after this long; 0s crashes at once")
	fs.BoolVar(&h.crashOnReady, add("crash-on-ready"), false, "crash the moment it is ready")
	fs.DurationVar(&h.crashEvery, add("crash-every"), 0, "throw the dice for a crash this often")
	fs.Float64Var(&h.crashChance, add("crash-chance"), 1, "how likely each throw of --crash-every is to crash, 0 to 1")
	fs.Uint64Var(&h.crashAttempts, add("crash-attempts"), 0, "crash only while HIVE_ATTEMPT is at most this; 0 is always")
	fs.StringVar(&h.crashUnless, add("crash-unless"), "", "do not crash when this file exists")
	fs.IntVar(&h.exitCode, add("exit-code"), 1, "the exit code of a crash")
	fs.StringVar(&h.signalSelf, add("signal-self"), "", "crash by this signal, such as SIGSEGV or SIGKILL, not by an exit code")

	section("Hanging and leaking")
	fs.DurationVar(&h.hang, add("hang"), never, "stop answering requests after this long")
	fs.DurationVar(&h.wedgeAfter, add("wedge-after"), never, "after this long have a request in flight and do nothing: no token, no log line, /health goes on")
	fs.BoolVar(&h.lie, add("lie"), false, "go on saying 200 on /health while hanging or stalled")
	fs.StringVar(&h.leak, add("leak-memory"), "", "take memory at this rate, such as 10MiB/s")
	fs.StringVar(&h.leakMax, add("leak-max"), "1GiB", "the most that --leak-memory takes")

	section("Ending")
	fs.BoolVar(&h.ignoreTerm, add("ignore-term"), false, "ignore SIGTERM, SIGINT and SIGHUP")
	fs.DurationVar(&h.slowExit, add("slow-exit"), 0, "take this long to exit after SIGTERM")
	fs.IntVar(&h.termCode, add("term-code"), 0, "the exit code after SIGTERM")
	fs.BoolVar(&h.refuseDrain, add("refuse-drain"), false, "keep work in flight when hive asks to drain (needs --callbacks)")

	section("Offspring")
	fs.BoolVar(&h.grandchild, add("grandchild"), false, "leave a process in its own session that keeps the port open and ignores SIGTERM")
	fs.BoolVar(&h.daemonizeChild, add("daemonize-child"), false, "leave a daemon: forked twice, own session, ignores SIGTERM")
	fs.BoolVar(&h.clearEnv, add("clear-env"), false, "give the daemon an empty environment")
	fs.BoolVar(&h.holdStdout, add("hold-stdout"), false, "let the offspring hold stdout and stderr open")
	fs.IntVar(&h.zombies, add("zombies"), 0, "leave this many dead children unreaped")
	fs.DurationVar(&h.offspringLife, add("offspring-life"), 5*time.Minute, "the offspring ends by itself after this long")
	fs.StringVar(&h.mark, add("mark"), "", "a word that the offspring carries on its command line, to be found by")

	section("Callbacks")
	fs.BoolVar(&h.callbacks, add("callbacks"), false, "POST ready, heartbeats and the progress of the load to HIVE_URL")
	fs.BoolVar(&h.notifyProgress, add("notify-progress"), false, "send X_HIVE_PROGRESS to NOTIFY_SOCKET while loading")
	fs.DurationVar(&h.heartbeatEvery, add("heartbeat-every"), time.Second, "time between heartbeats")
	fs.DurationVar(&h.muteAfter, add("mute-after"), never, "send no heartbeat after this long")

	fs.StringVar(&h.role, "as", "", "") // how it calls itself; not for people

	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(out, fs, groups)
		return h, err
	case err != nil:
		return h, err
	case fs.NArg() > 0:
		return h, fmt.Errorf("%q is no flag; write --help to see them", fs.Arg(0))
	}
	fs.Visit(func(f *flag.Flag) { h.heartbeatsAsked = h.heartbeatsAsked || f.Name == "heartbeat-every" })
	return h, h.check()
}

// check refuses what cannot be meant.
func (h *habits) check() (err error) {
	if h.signalSelf != "" && unix.SignalNum(h.signalSelf) == 0 {
		return fmt.Errorf("--signal-self %s is no signal; write a name such as SIGSEGV", h.signalSelf)
	}
	if h.crashChance < 0 || h.crashChance > 1 {
		return fmt.Errorf("--crash-chance %g is out of bounds; write a number from 0 to 1", h.crashChance)
	}
	if !(h.tokenRate >= 0) {
		return fmt.Errorf("--tokens %g is out of bounds; write a number of tokens per second", h.tokenRate)
	}
	if h.heartbeatEvery <= 0 {
		return fmt.Errorf("--heartbeat-every %s is too short; write a duration such as 1s", h.heartbeatEvery)
	}
	if h.leak != "" {
		if h.leakBytes, err = bytesOf(strings.TrimSuffix(h.leak, "/s")); err != nil {
			return fmt.Errorf("--leak-memory: %w", err)
		}
	}
	if h.leakLimit, err = bytesOf(h.leakMax); err != nil {
		return fmt.Errorf("--leak-max: %w", err)
	}
	return nil
}

// bytesOf reads 10MiB, 1GiB, 512KiB or a plain number of bytes.
func bytesOf(s string) (uint64, error) {
	mult := uint64(1)
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			s, mult = rest, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no size; write a whole number with KiB, MiB or GiB", s)
	}
	return n * mult, nil
}

// help prints the flags under their headings.
func help(out io.Writer, fs *flag.FlagSet, groups []group) {
	fmt.Fprint(out, "fakeworker is a model server without a model. Without flags it behaves.\n")
	for _, g := range groups {
		fmt.Fprintf(out, "\n%s:\n", g.title)
		for _, name := range g.flags {
			f := fs.Lookup(name)
			def := ""
			if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "0s" && f.DefValue != "-1" && f.DefValue != "false" && f.DefValue != never.String() {
				def = " (" + f.DefValue + ")"
			}
			fmt.Fprintf(out, "  --%-17s %s%s\n", name, f.Usage, def)
		}
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
