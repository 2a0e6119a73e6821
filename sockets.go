package hive

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/rbee-hive/hive/messages"
)

// sockets holds the listening sockets of workers with `listen: socket`. hive
// binds the port once and passes the socket to each attempt, so that the port
// changes hands with nobody in between and callers wait instead of being refused.
// Source: sd_listen_fds(3).
type sockets struct {
	mu   sync.Mutex // guards open
	open map[messages.WorkerID]*net.TCPListener
}

func newSockets() *sockets { return &sockets{open: map[messages.WorkerID]*net.TCPListener{}} }

// bind listens for a worker, unless that has been done.
func (s *sockets) bind(id messages.WorkerID, port int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] != nil {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(workerHost, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("bind port %d for worker %s: %w", port, id, err)
	}
	s.open[id] = l.(*net.TCPListener)
	return nil
}

// file is a copy of a worker's socket to pass on; nil when it has none.
func (s *sockets) file(id messages.WorkerID) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.open[id]; l != nil {
		return l.File()
	}
	return nil, nil
}

// holds reports whether hive itself listens for a worker, or on port.
func (s *sockets) holds(id messages.WorkerID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[id] != nil
}

func (s *sockets) onPort(port int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.open {
		if l.Addr().(*net.TCPAddr).Port == port {
			return true
		}
	}
	return false
}

// shut closes a worker's socket, if it has one.
func (s *sockets) shut(id messages.WorkerID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.open[id]
	delete(s.open, id)
	if l == nil {
		return false
	}
	_ = l.Close()
	return true
}

func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.open {
		_ = l.Close()
		delete(s.open, id)
	}
}

// activation wraps a command so that it finds its socket as systemd would pass
// it: descriptor 3, and its own pid in LISTEN_PID, which is known only after the
// fork. The shell replaces itself and leaves no process behind.
func activation(command []string) (wrapped []string, env []string) {
	return append([]string{"/bin/sh", "-c", `LISTEN_PID=$$; export LISTEN_PID; exec "$@"`, "sh"}, command...),
		[]string{"LISTEN_FDS=1", "LISTEN_FDNAMES=http"}
}
