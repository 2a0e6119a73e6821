package notify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// MaxPath is the longest path a socket may have, in bytes: sun_path holds 108
	// with the zero at the end. Source: unix(7).
	MaxPath = 107

	// MaxDatagram is the longest datagram that is taken, in bytes.
	MaxDatagram = 64 << 10

	// batchSize is how many datagrams one system call takes. The kernel queues 11
	// at most where net.unix.max_dgram_qlen is 10, its default.
	batchSize = 8

	// controlSize has room for the credentials (32 bytes) and for the one file of
	// BARRIER=1 (24, which is room for two). More files than that never enter this
	// process: the kernel drops them. Source: net/core/scm.c, scm_detach_fds.
	controlSize = 56
)

// ErrTooLong is the error of a datagram longer than MaxDatagram; nothing of it
// is taken.
var ErrTooLong = errors.New("the datagram is longer than 64 KiB")

// Datagram is what arrived, and from whom as the kernel says.
type Datagram struct {
	PID      int // 0: a process that this pid namespace cannot see
	UID, GID int // -1: the kernel did not say
	Message  Message
	Err      error // words that were left out, or ErrTooLong
}

// Socket receives a worker's notifications. Its methods may be called from any
// goroutine.
type Socket struct {
	path   string
	id     fileID
	file   *os.File
	closed atomic.Bool
}

// fileID tells a socket from a later one with the same path.
type fileID struct{ dev, ino uint64 }

// Listen makes the socket at path, which is absolute; a socket that is there
// already is replaced. Only uid and gid may send to it, and root; -1 leaves the
// owner as it is.
func Listen(path string, uid, gid int) (*Socket, error) {
	if len(path) > MaxPath {
		return nil, fmt.Errorf("notify socket %s: the path has %d bytes and Linux takes %d; choose a shorter data directory", path, len(path), MaxPath)
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("notify socket %q: the path is not absolute", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("notify socket %s: %w", path, err)
	}
	id, err := bind(fd, path, uid, gid)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("notify socket %s: %w", path, err)
	}
	return &Socket{path: path, id: id, file: os.NewFile(uintptr(fd), path)}, nil
}

func bind(fd int, path string, uid, gid int) (id fileID, err error) {
	// Before bind, so that no datagram comes without credentials and nobody finds
	// the socket with other rights. Source: net/unix/af_unix.c, unix_bind_bsd.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return id, fmt.Errorf("ask for the sender's credentials: %w", err)
	}
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return id, fmt.Errorf("set its rights: %w", err)
	}
	switch fi, err := os.Lstat(path); {
	case err == nil && fi.Mode().Type() != os.ModeSocket:
		return id, errors.New("there is a file of this name that is no socket; move it away")
	case err == nil:
		if err := os.Remove(path); err != nil {
			return id, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return id, fmt.Errorf("bind: %w", err)
	}
	if uid != -1 || gid != -1 {
		if err := os.Lchown(path, uid, gid); err != nil {
			return id, errors.Join(err, os.Remove(path))
		}
	}
	id, err = idOf(path)
	return id, err
}

func idOf(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, err
	}
	return fileID{uint64(st.Dev), st.Ino}, nil
}

// Path is where the socket is: the worker's NOTIFY_SOCKET.
func (s *Socket) Path() string { return s.path }

// Close ends Serve and removes the path, unless a later socket has it. What was
// not yet read is lost. A second Close does nothing.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.file.Close()
	if id, gone := idOf(s.path); gone == nil && id == s.id {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// Detach ends Serve and leaves the path for the next hive to replace. Until it
// does, senders are refused.
func (s *Socket) Detach() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.file.Close()
}

// Serve reads until Close or Detach and calls handle for each datagram, in
// order, in the goroutine that called Serve; handle may call Close. Files that
// came with a datagram are closed when handle has returned, which is how a
// BARRIER=1 is answered. The error is nil after Close and Detach.
func (s *Socket) Serve(handle func(Datagram)) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return s.ended(err)
	}
	for {
		b, n, err := receive(raw)
		if err != nil {
			return s.ended(err)
		}
		for i := range n {
			d, files := b.datagram(i)
			handle(d)
			for _, fd := range files {
				if fd >= 0 {
					_ = unix.Close(fd)
				}
			}
		}
		batches.Put(b)
	}
}

func (s *Socket) ended(err error) error {
	if s.closed.Load() {
		return nil
	}
	return fmt.Errorf("receive on notify socket %s: %w", s.path, err)
}

// batch is the memory of one recvmmsg(2). Sockets that wait hold none, so that
// hundreds of workers share a few.
type batch struct {
	heads   [batchSize]unix.Mmsghdr
	iovs    [batchSize]unix.Iovec
	control [batchSize][controlSize / 8]uint64 // aligned as cmsg(3) wants it
	data    []byte
}

var batches = sync.Pool{New: func() any {
	b := &batch{data: make([]byte, batchSize*MaxDatagram)}
	for i := range b.heads {
		b.iovs[i].Base = &b.data[i*MaxDatagram]
		b.iovs[i].SetLen(MaxDatagram)
		b.heads[i].Hdr.Iov = &b.iovs[i]
		b.heads[i].Hdr.SetIovlen(1)
		b.heads[i].Hdr.Control = (*byte)(unsafe.Pointer(&b.control[i]))
	}
	return b
}}

// receive waits for datagrams and takes up to batchSize of them.
func receive(raw syscall.RawConn) (b *batch, n int, err error) {
	wait := raw.Read(func(fd uintptr) bool {
		b = batches.Get().(*batch)
		for i := range b.heads {
			b.heads[i].Hdr.SetControllen(controlSize)
			b.heads[i].Hdr.Flags = 0
		}
		for {
			r, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.heads)), batchSize,
				unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC, 0, 0)
			switch errno {
			case 0:
				n, err = int(r), nil
				return true
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				batches.Put(b)
				b = nil
				return false
			default:
				err = errno
				return true
			}
		}
	})
	return b, n, errors.Join(wait, err)
}

// datagram reads the i-th of the batch. Files that came with it are the
// caller's to close; -1 is none.
func (b *batch) datagram(i int) (Datagram, [controlSize / 4]int) {
	h := &b.heads[i]
	d := Datagram{UID: -1, GID: -1}
	var files [controlSize / 4]int
	for i := range files {
		files[i] = -1
	}
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.control[i])), controlSize)[:h.Hdr.Controllen]
	for len(control) >= unix.CmsgLen(0) {
		head, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		control = rest
		switch {
		case head.Level != unix.SOL_SOCKET:
		case head.Type == unix.SCM_CREDENTIALS && len(data) >= unix.SizeofUcred:
			d.PID = int(int32(binary.NativeEndian.Uint32(data)))
			d.UID = int(binary.NativeEndian.Uint32(data[4:]))
			d.GID = int(binary.NativeEndian.Uint32(data[8:]))
		case head.Type == unix.SCM_RIGHTS:
			for k := 0; k+4 <= len(data) && k/4 < len(files); k += 4 {
				files[k/4] = int(int32(binary.NativeEndian.Uint32(data[k:])))
			}
		}
	}
	if h.Hdr.Flags&unix.MSG_TRUNC != 0 {
		d.Err = ErrTooLong
		return d, files
	}
	d.Message, d.Err = Parse(b.data[i*MaxDatagram:][:h.Len])
	return d, files
}
