package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// sendTimeout is how long a datagram may wait for room: a hive that reads nothing
// must not hold an engine up.
const sendTimeout = time.Second

// notifier sends datagrams. A nil one sends none.
type notifier struct {
	path string

	mu   sync.Mutex // guards conn, and keeps the order of the datagrams
	conn *net.UnixConn
}

// send makes one datagram of words. A hive that was restarted has a new socket
// behind the same path, so that what fails on the old one is tried once more.
func (n *notifier) send(ctx context.Context, words string) error {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	fresh := n.conn == nil
	err := n.try(ctx, words)
	var timeout net.Error
	if err != nil && !fresh && ctx.Err() == nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		err = n.try(ctx, words)
	}
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

func (n *notifier) try(ctx context.Context, words string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.conn == nil {
		// A path that begins with @ is abstract, as sd_notify(3) has it too.
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.path, Net: "unixgram"})
		if err != nil {
			return err
		}
		n.conn = conn
	}
	by := time.Now().Add(sendTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(by) {
		by = d
	}
	err := n.conn.SetWriteDeadline(by)
	if err == nil {
		_, err = n.conn.Write([]byte(words))
	}
	if err != nil {
		_ = n.conn.Close()
		n.conn = nil
	}
	return err
}
