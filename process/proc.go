// Package process starts, watches and ends OS processes with all their
// descendants. A process is known by pid and start time; its exit is seen by its
// pidfd in the runtime poller, without a thread; its tree is found by session,
// parents and an environment mark, since hive is a child subreaper.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is what to start.
type Spec struct {
	Command   []string
	Env       []string // the complete environment
	Dir, User string
	Output    *os.File   // stdout and stderr
	Files     []*os.File // descriptors from 3 on
	Tuning    Tuning
	Leaf      string                   // a cgroup2 folder of the caller's, to be born in; "": one of the runner's
	Enter     func(func() error) error // wraps the fork, to be born elsewhere; nil: nothing
	MarkKey   string                   // with MarkValue: an environment variable that marks the tree
	MarkValue string
}

// StartError says why a process could not be started. Config means that a retry
// cannot help until a person mends something.
type StartError struct {
	Config bool
	Reason string
	Err    error
}

func (e *StartError) Error() string { return e.Reason }
func (e *StartError) Unwrap() error { return e.Err }

func config(format string, args ...any) error {
	return &StartError{Config: true, Reason: fmt.Sprintf(format, args...)}
}

// Exit is how a process ended.
type Exit struct {
	Code       int
	Signal     syscall.Signal // 0 when it exited by itself
	CoreDumped bool
	Unknown    bool      // the status could not be had
	At         time.Time // when hive woke up by it
	UserCPU    time.Duration
	SystemCPU  time.Duration
	MaxRSS     uint64 // bytes
}

// Proc is a started process. Its methods are safe for concurrent use.
type Proc struct {
	runner *Runner
	os     *os.Process
	pidfd  *os.File
	pid    int
	start  uint64
	mark   string      // "KEY=value"
	leaf   string      // its cgroup2 folder, "" where the host gives none
	own    bool        // the leaf is the runner\'s, not the caller\'s
	spent  atomic.Bool // cgroup.kill was used on the leaf

	mu     sync.Mutex // guards reaped
	reaped bool
}

// Check says what would keep spec from starting on this host.
func Check(s Spec) error {
	_, _, err := resolve(s)
	return err
}

func resolve(s Spec) (path string, cred *syscall.Credential, err error) {
	if len(s.Command) == 0 || s.Command[0] == "" {
		return "", nil, config("the command is empty; write the program and its arguments")
	}
	if s.Dir != "" {
		st, err := os.Stat(s.Dir)
		if err != nil {
			return "", nil, config("dir %s does not exist; make it or correct `dir`", s.Dir)
		}
		if !st.IsDir() {
			return "", nil, config("dir %s is not a directory; correct `dir`", s.Dir)
		}
	}
	if cred, err = credential(s.User); err != nil {
		return "", nil, err
	}
	name := s.Command[0]
	if strings.Contains(name, "/") {
		path = name
		if !filepath.IsAbs(path) && s.Dir != "" {
			path = filepath.Join(s.Dir, path)
		}
		if err := executable(path); err != nil {
			return "", nil, config("binary %s %v; install it or correct `command`", name, err)
		}
		return path, cred, nil
	}
	for _, dir := range filepath.SplitList(lookup(s.Env, "PATH")) {
		if p := filepath.Join(dir, name); executable(p) == nil {
			return p, cred, nil
		}
	}
	return "", nil, config("binary %s was not found in PATH; install it, or give its full path in `command`", name)
}

func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("does not exist")
	case err != nil:
		return errors.New("cannot be read: " + err.Error())
	case st.IsDir():
		return errors.New("is a directory")
	case unix.Access(path, unix.X_OK) != nil:
		return errors.New("is not executable")
	}
	return nil
}

func lookup(env []string, key string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], key+"="); ok {
			return v
		}
	}
	return ""
}

// credential resolves "name", "uid" or "name:group" to what the kernel takes.
func credential(who string) (*syscall.Credential, error) {
	if who == "" {
		return nil, nil
	}
	name, group, _ := strings.Cut(who, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, config("user %s does not exist on this host; create it or correct `user`", name)
		}
	}
	gidText := u.Gid
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			if g, err = user.LookupGroupId(group); err != nil {
				return nil, config("group %s does not exist on this host; create it or correct `user`", group)
			}
		}
		gidText = g.Gid
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(gidText)
	if uid == os.Geteuid() && group == "" {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, config("hive runs as an ordinary user and cannot start a process as %s; run hive as root or drop `user`", who)
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if ids, err := u.GroupIds(); err == nil {
		for _, id := range ids {
			if n, err := strconv.Atoi(id); err == nil {
				cred.Groups = append(cred.Groups, uint32(n))
			}
		}
	}
	return cred, nil
}

// Owner is the uid and gid that a process of that user gets; -1 for hive's own.
func Owner(who string) (uid, gid int, err error) {
	cred, err := credential(who)
	if err != nil || cred == nil {
		return -1, -1, err
	}
	return int(cred.Uid), int(cred.Gid), nil
}

// Start makes the process in a session, and so a group, of its own. It returns
// once exec has happened; a failure is a *StartError.
func (r *Runner) Start(s Spec) (*Proc, error) {
	path, cred, err := resolve(s)
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, &StartError{Reason: "open " + os.DevNull + ": " + err.Error(), Err: err}
	}
	defer null.Close()
	mark := s.MarkKey + "=" + s.MarkValue
	env := s.Env
	if s.MarkKey != "" {
		env = append(env[:len(env):len(env)], mark)
	}
	fd := -1
	attr := &os.ProcAttr{Dir: s.Dir, Env: env, Files: append([]*os.File{null, s.Output, s.Output}, s.Files...),
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &fd, Credential: cred}}
	r.spawning(1)
	defer r.spawning(-1)
	home, ok, own := leaf{dir: s.Leaf}, s.Leaf != "", s.Leaf == ""
	if ok {
		if home.fd, err = unix.Open(s.Leaf, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, &StartError{Reason: fmt.Sprintf("open cgroup %s: %v", s.Leaf, err), Err: err}
		}
	} else {
		home, ok = r.grove.take()
	}
	if ok {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, home.fd
	}
	var p *os.Process
	fork := func() (err error) { p, err = os.StartProcess(path, s.Command, attr); return err }
	if s.Enter != nil {
		err = s.Enter(fork)
	} else {
		err = fork()
	}
	if p == nil {
		if ok {
			_ = unix.Close(home.fd)
		}
		if ok && own {
			r.grove.give(home.dir, false)
		}
		return nil, startError(s, err)
	}
	if ok {
		_ = unix.Close(home.fd)
	}
	if fd < 0 {
		if fd, err = unix.PidfdOpen(p.Pid, unix.PIDFD_NONBLOCK); err != nil {
			_ = p.Kill()
			_, _ = p.Wait()
			return nil, &StartError{Reason: fmt.Sprintf("watch process %d: %v; hive needs Linux 5.10 or newer", p.Pid, err), Err: err}
		}
	}
	_ = unix.SetNonblock(fd, true)
	unix.CloseOnExec(fd)
	proc := &Proc{runner: r, os: p, pidfd: os.NewFile(uintptr(fd), "pidfd"), pid: p.Pid, mark: mark, leaf: home.dir, own: own}
	if st, err := readStat(p.Pid); err == nil {
		proc.start = st.start
	}
	r.add(proc)
	if err := s.Tuning.tune(p.Pid); err != nil {
		_, _ = proc.KillTree()
		proc.Wait()
		proc.Close()
		return nil, err
	}
	return proc, nil
}

func startError(s Spec, err error) error {
	e := &StartError{Err: err}
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		e.Config, e.Reason = true, fmt.Sprintf("binary %s is not a program this host can run; check its format, or its first line if it is a script", s.Command[0])
	case errors.Is(err, syscall.ENOENT), errors.Is(err, exec.ErrNotFound):
		e.Config, e.Reason = true, fmt.Sprintf("binary %s, or the interpreter that it names, does not exist; install it or correct `command`", s.Command[0])
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		e.Config, e.Reason = true, fmt.Sprintf("binary %s may not be run by this user: %v; correct its permissions, `dir` or `user`", s.Command[0], errno(err))
	default:
		e.Reason = fmt.Sprintf("start %s: %v", s.Command[0], errno(err))
	}
	return e
}

func errno(err error) error {
	var n syscall.Errno
	if errors.As(err, &n) {
		return n
	}
	return err
}

// PID is the leader's process id, which is also its session's and group's.
func (p *Proc) PID() int { return p.pid }

// StartTime is field 22 of /proc/PID/stat: clock ticks since boot.
func (p *Proc) StartTime() uint64 { return p.start }

// Wait parks the goroutine, not a thread, until the leader has ended, and reaps
// it. Call it once.
// Source: pidfd_open(2): a pidfd becomes readable when its process ends.
func (p *Proc) Wait() Exit {
	rc, err := p.pidfd.SyscallConn()
	if err == nil {
		err = rc.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			return err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0
		})
	}
	at := time.Now()
	p.mu.Lock()
	state, werr := p.os.Wait() // returns at once: the process is a zombie
	p.reaped = true
	p.mu.Unlock()
	_ = p.pidfd.Close()
	e := Exit{At: at}
	if err != nil || werr != nil {
		if werr != nil {
			e.Unknown = true
			return e
		}
		e.At = time.Now()
	}
	ws := state.Sys().(syscall.WaitStatus)
	switch {
	case ws.Exited():
		e.Code = ws.ExitStatus()
	case ws.Signaled():
		e.Signal, e.CoreDumped = ws.Signal(), ws.CoreDump()
	}
	e.UserCPU, e.SystemCPU = state.UserTime(), state.SystemTime()
	if ru, ok := state.SysUsage().(*syscall.Rusage); ok {
		e.MaxRSS = uint64(ru.Maxrss) * 1024
	}
	return e
}

// ended reports whether the leader has been reaped.
func (p *Proc) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped
}

// Signal sends sig to the whole group. It returns nil when nobody is left. While
// the leader is not reaped the group id cannot be another's; afterwards it is
// used only while a member of the tree still carries it.
func (p *Proc) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		members, err := p.Survivors()
		if err != nil {
			return err
		}
		ours := false
		for _, m := range members {
			ours = ours || m.InGroup
		}
		if !ours {
			return nil
		}
	}
	if err := unix.Kill(-p.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal group %d: %w", p.pid, err)
	}
	return nil
}
