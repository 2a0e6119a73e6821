package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// sendAs makes a copy of this test binary a sender; its value is what to do.
const sendAs = "NOTIFY_TEST_SEND_AS"

func TestMain(m *testing.M) {
	if how := os.Getenv(sendAs); how != "" {
		if err := sendAsChild(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// sendAsChild sends READY=1 from this process; forged, with its parent's pid.
func sendAsChild(how string) error {
	var control []byte
	if how == "forged" {
		control = unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getppid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	return unix.Sendmsg(fd, []byte("READY=1"), control, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
}

// served is a socket in a goroutine, and the channel of what it got.
func served(t testing.TB, path string) (*Socket, <-chan Datagram) {
	t.Helper()
	s, err := Listen(path, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan Datagram, 64)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(func(d Datagram) { got <- d }) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, got
}

// next is the next datagram, or the end of the test.
func next(t testing.TB, got <-chan Datagram) Datagram {
	t.Helper()
	select {
	case d := <-got:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("no datagram came")
		return Datagram{}
	}
}

func dial(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func send(t testing.TB, c *net.UnixConn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestSocketSaysWhoSentWhat(t *testing.T) {
	s, got := served(t, filepath.Join(t.TempDir(), "n"))
	c := dial(t, s.Path())
	send(t, c, "READY=1\nX_HIVE_IN_FLIGHT=-1")
	d := next(t, got)
	if d.PID != os.Getpid() || d.UID != os.Getuid() || d.GID != os.Getgid() || !d.Message.Ready || d.Err == nil {
		t.Errorf("%+v", d)
	}
	send(t, c, "")
	if d := next(t, got); d.PID != os.Getpid() || d.Err != nil || d.Message != (Message{}) {
		t.Errorf("an empty datagram: %+v", d)
	}
}

func TestSenderIsWhoTheKernelSays(t *testing.T) {
	s, got := served(t, filepath.Join(t.TempDir(), "n"))
	child := func(how string, as *syscall.Credential) (pid int, err error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), sendAs+"="+how, "NOTIFY_SOCKET="+s.Path())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return cmd.Process.Pid, err
	}
	pid, err := child("itself", nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := next(t, got); d.PID != pid || d.PID == os.Getpid() {
		t.Errorf("a child with pid %d is taken for %d", pid, d.PID)
	}
	var as *syscall.Credential
	if os.Getuid() == 0 {
		as = nobody(t, s)
	}
	if _, err := child("forged", as); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("a process without rights sent another's pid: %v", err)
	}
}

// nobody lets uid 65534 reach the socket, as a worker with its own uid does.
func nobody(t *testing.T, s *Socket) *syscall.Credential {
	t.Helper()
	for dir := filepath.Dir(s.Path()); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(s.Path(), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534}
}

// sendFiles does what net.UnixConn does not: datagrams with files.
func sendFiles(t *testing.T, s *Socket, text string, fds ...int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, []byte(text), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: s.Path()}, 0); err != nil {
		t.Fatal(err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestPassedFilesAreClosed(t *testing.T) {
	s, got := served(t, filepath.Join(t.TempDir(), "n"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := openFiles(t)
	for _, n := range []int{1, 2, 3, 100, 253} {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = int(w.Fd())
		}
		sendFiles(t, s, "FDSTORE=1", fds...)
		if d := next(t, got); d.Err != nil || d.Message != (Message{}) || d.PID != os.Getpid() {
			t.Errorf("with %d files: %+v", n, d)
		}
	}
	// The end of the pipe is seen only when every copy is closed.
	sendFiles(t, s, "BARRIER=1", int(w.Fd()))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the barrier is not answered: %v", err)
	}
	if after := openFiles(t); after > before-1 {
		t.Errorf("%d files are open, and %d were", after, before-1)
	}
}

// TestBarrierIsAnsweredAfterHandle: until then the sender waits, and can be found.
func TestBarrierIsAnsweredAfterHandle(t *testing.T) {
	s, err := Listen(filepath.Join(t.TempDir(), "n"), -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	in, out := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(func(Datagram) { close(in); <-out }) }()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sendFiles(t, s, "BARRIER=1", int(w.Fd()))
	_ = w.Close()
	<-in
	hup := func(wait int) bool {
		p := []unix.PollFd{{Fd: int32(r.Fd())}}
		n, _ := unix.Poll(p, wait)
		return n == 1 && p[0].Revents&unix.POLLHUP != 0
	}
	if hup(0) {
		t.Error("the barrier was answered while handle ran")
	}
	close(out)
	if !hup(10_000) {
		t.Error("the barrier was not answered after handle")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestLongDatagrams(t *testing.T) {
	s, got := served(t, filepath.Join(t.TempDir(), "n"))
	c := dial(t, s.Path())
	send(t, c, "READY=1\nSTATUS="+strings.Repeat("a", MaxDatagram-15))
	if d := next(t, got); d.Err != nil || !d.Message.Ready || len(*d.Message.Status) != maxStatus {
		t.Errorf("64 KiB: %+v", d)
	}
	send(t, c, "READY=1\nSTATUS="+strings.Repeat("a", MaxDatagram-14))
	if d := next(t, got); !errors.Is(d.Err, ErrTooLong) || d.Message != (Message{}) || d.PID != os.Getpid() {
		t.Errorf("one byte more: %+v", d)
	}
	send(t, c, "READY=1")
	if d := next(t, got); d.Err != nil || !d.Message.Ready {
		t.Errorf("after a long one: %+v", d)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0)
	s, err := Listen(filepath.Join(dir, "a"), os.Getuid(), os.Getgid())
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(s.Path()); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("rights %v, %v", fi.Mode(), err)
	}
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(func(Datagram) {}); err != nil {
		t.Errorf("Serve after Detach: %v", err)
	}
	if _, err := os.Lstat(s.Path()); err != nil {
		t.Errorf("Detach: %v", err)
	}
	next, err := Listen(s.Path(), -1, -1)
	if err != nil {
		t.Fatalf("over an old socket: %v", err)
	}
	if err := errors.Join(s.Close(), next.Close(), next.Close(), next.Detach()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close leaves the path: %v", err)
	}

	one, err := Listen(filepath.Join(dir, "b"), -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Listen(filepath.Join(dir, "b"), -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(two.Path()); err != nil {
		t.Errorf("Close removes its successor's path: %v", err)
	}
	if err := two.Close(); err != nil {
		t.Error(err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join("/tmp", strings.Repeat("x", MaxPath-4))
	for path, word := range map[string]string{file: "no socket", long: "107", "n": "absolute", filepath.Join(dir, "no", "n"): "no such file"} {
		if _, err := Listen(path, -1, -1); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", path, err)
		}
	}
	exact := filepath.Join(dir, strings.Repeat("x", MaxPath-len(dir)-1))
	if s, err := Listen(exact, -1, -1); err != nil || s.Close() != nil {
		t.Errorf("a path of %d bytes: %v", len(exact), err)
	}
}

// TestCloseFromHandle would hang if Serve held the socket while it calls handle.
func TestCloseFromHandle(t *testing.T) {
	s, err := Listen(filepath.Join(t.TempDir(), "n"), -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	send(t, dial(t, s.Path()), "STOPPING=1")
	if err := s.Serve(func(Datagram) { _ = s.Close() }); err != nil {
		t.Error(err)
	}
}
