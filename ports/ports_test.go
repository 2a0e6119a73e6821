package ports

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	if r, err := ParseRange("7100-7199"); err != nil || r != (Range{7100, 7199}) {
		t.Error(r, err)
	}
	for in, want := range map[string]string{"7199-7100": "backwards", "x": "not understood", "0-5": "leaves", "1-70000": "leaves", "": "not understood"} {
		if _, err := ParseRange(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestLease(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	held := ln.Addr().(*net.TCPAddr).Port
	l := New("127.0.0.1", Range{held, held})
	if _, err := l.Lease("a", 0); !errors.Is(err, ErrNone) {
		t.Errorf("the only port is held: %v", err)
	}
	_, err = l.Lease("a", held)
	var in *InUseError
	if !errors.As(err, &in) || !strings.Contains(in.Owner, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("the owner is not named: %v", err)
	}
	ln.Close()
	if p, err := l.Lease("a", 0); err != nil || p != held {
		t.Errorf("free again: %d, %v", p, err)
	}
	if p, err := l.Lease("a", 0); err != nil || p != held {
		t.Errorf("an owner keeps its port: %d, %v", p, err)
	}
	if _, err := l.Lease("b", held); err == nil || !strings.Contains(err.Error(), "worker a") {
		t.Errorf("leased to a: %v", err)
	}
	l.Release("a")
	if p, err := l.Lease("b", 0); err != nil || p != held {
		t.Errorf("released: %d, %v", p, err)
	}
}
