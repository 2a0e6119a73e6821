package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxRelayed is longer than any datagram hive takes, so that hive's bound can be tried.
const maxRelayed = 1 << 20

// relayTimeout bounds the wait for hive to take a datagram.
const relayTimeout = 10 * time.Second

// relay sends the request's body as one datagram to NOTIFY_SOCKET, and answers
// once hive has taken it; with ?as=child a process in its own session sends it.
func (w *process) relay(rw http.ResponseWriter, r *http.Request) {
	words, err := io.ReadAll(io.LimitReader(r.Body, maxRelayed))
	if err == nil && r.URL.Query().Get("as") == "child" {
		cmd := w.self(roleMessenger)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(words), os.Stderr
		err = cmd.Run()
	} else if err == nil {
		err = notifyAndWait(words)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintln(rw, "taken")
}

// beMessenger sends its stdin and exits once hive has taken it.
func beMessenger() {
	words, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = notifyAndWait(words)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "notify: %v\n", err)
		os.Exit(1)
	}
}

// notifyAndWait sends a datagram, and waits until its receiver has handled it by
// giving it a pipe's end to close. Source: sd_notify_barrier(3).
func notifyAndWait(words []byte) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return errors.New("there is no NOTIFY_SOCKET")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(relayTimeout.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience)
	to := &unix.SockaddrUnix{Name: path}
	if err := unix.Sendto(fd, words, 0, to); err != nil {
		return err
	}
	mine, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer mine.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(theirs.Fd())), to, 0)
	_ = theirs.Close()
	if err != nil {
		return err
	}
	_ = mine.SetReadDeadline(time.Now().Add(relayTimeout))
	if _, err := mine.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("it was not taken: %w", err)
	}
	return nil
}
