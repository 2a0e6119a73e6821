package notify

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxStatus = 256 // bytes of STATUS that are kept; it is shown in one line
	maxStage  = 64  // bytes of X_HIVE_STAGE
	maxQuoted = 32  // bytes of a bad word that an error repeats
	maxErrors = 8   // bad words of one datagram that are named; more say nothing new
)

// Message is one datagram, parsed. A nil pointer: the word was not in it. What
// the pointers lead to may be shared between messages; it is only to be read.
// Where a word is repeated, the last one counts.
//
// Source: sd_notify(3); the words that begin with X_HIVE_ are hive's own.
type Message struct {
	Ready, Stopping, Watchdog bool
	WatchdogTrigger           bool           // WATCHDOG=trigger: the worker asks to be failed
	Status                    *string        // STATUS, at most 256 bytes of printable UTF-8
	ExtendTimeout             *time.Duration // EXTEND_TIMEOUT_USEC, 0 or more
	MainPID                   int            // MAINPID; 0 when it was not said
	Progress                  *float64       // X_HIVE_PROGRESS, 0 to 1
	InFlight                  *int           // X_HIVE_IN_FLIGHT, 0 or more
	Stage                     *string        // X_HIVE_STAGE, at most 64 bytes of printable UTF-8
	Unknown                   int            // words that mean nothing to hive nor to systemd
}

// WordError is a word of a datagram that was left out.
type WordError struct {
	Word string // as it was sent, up to 32 bytes of it
	Why  string
}

func (e *WordError) Error() string { return fmt.Sprintf("notify word %q: %s", e.Word, e.Why) }

// Parse reads a datagram. A word that is not understood is left out and the
// others are kept: the error joins a WordError for each of the first bad ones.
// An empty datagram is an empty message.
func Parse(datagram []byte) (Message, error) {
	var m Message
	var bad []error
	for len(datagram) > 0 {
		var line []byte
		line, datagram, _ = bytes.Cut(datagram, newline)
		if len(line) == 0 {
			continue
		}
		if why := m.take(line); why != "" && len(bad) < maxErrors {
			bad = append(bad, &WordError{Word: string(line[:min(len(line), maxQuoted)]), Why: why})
		}
	}
	return m, errors.Join(bad...)
}

var newline = []byte{'\n'}

// take puts one word in m, or says why not.
func (m *Message) take(line []byte) (why string) {
	key, value, ok := bytes.Cut(line, []byte{'='})
	if !ok {
		return "it has no ="
	}
	switch string(key) {
	case "READY":
		return flag(value, &m.Ready)
	case "STOPPING":
		return flag(value, &m.Stopping)
	case "WATCHDOG":
		if string(value) == "trigger" {
			m.WatchdogTrigger = true
			return ""
		}
		if flag(value, &m.Watchdog) != "" {
			return "its value is neither 1 nor trigger"
		}
	case "STATUS":
		m.Status = text(value, maxStatus)
	case "X_HIVE_STAGE":
		m.Stage = text(value, maxStage)
	case "EXTEND_TIMEOUT_USEC":
		const most = math.MaxInt64 / uint64(time.Microsecond)
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil || n > most {
			return "its value is no number of microseconds"
		}
		d := time.Duration(n) * time.Microsecond
		m.ExtendTimeout = &d
	case "MAINPID":
		n, err := strconv.ParseInt(string(value), 10, 32)
		if err != nil || n <= 1 { // 1 is init, which is no worker
			return "its value is no process id"
		}
		m.MainPID = int(n)
	case "X_HIVE_PROGRESS":
		f, err := strconv.ParseFloat(string(value), 64)
		if err != nil || !(f >= 0 && f <= 1) { // so written that NaN is refused
			return "its value is no number from 0 to 1"
		}
		f = math.Abs(f) // -0 is 0
		m.Progress = &f
	case "X_HIVE_IN_FLIGHT":
		n, err := strconv.ParseUint(string(value), 10, 31)
		if err != nil {
			return "its value is no whole number from 0 on"
		}
		m.InFlight = count(int(n))
	default:
		if !ofSystemd(key) {
			m.Unknown++
		}
	}
	return ""
}

// ofSystemd tells whether key is a word of systemd that hive has no use for.
//
// Source: sd_notify(3) of systemd 258.
func ofSystemd(key []byte) bool {
	switch string(key) {
	case "BARRIER", "BUSERROR", "ERRNO", "EXIT_STATUS", "FDNAME", "FDPOLL", "FDSTORE", "FDSTOREREMOVE", "INVOCATION_ID",
		"MAINPIDFD", "MAINPIDFDID", "MONOTONIC_USEC", "NOTIFYACCESS", "RELOADING", "RESTART_RESET", "VARLINKERROR", "WATCHDOG_USEC":
		return true
	}
	return false
}

func flag(value []byte, to *bool) (why string) {
	if string(value) != "1" {
		return "its value is not 1"
	}
	*to = true
	return ""
}

// text is value as it may be shown: valid UTF-8, without control characters, at
// most limit bytes and no character cut in half.
func text(value []byte, limit int) *string {
	var b strings.Builder
	for len(value) > 0 {
		r, size := utf8.DecodeRune(value)
		value = value[size:]
		if unicode.IsControl(r) {
			continue
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r) // utf8.RuneError where the byte was none of UTF-8
	}
	s := b.String()
	return &s
}

// counts are the numbers that heartbeats carry most, so that they cost no
// memory. They are never written after init.
var counts = func() (c [256]int) {
	for i := range c {
		c[i] = i
	}
	return c
}()

func count(n int) *int {
	if n < len(counts) {
		return &counts[n]
	}
	large := n // a variable of its own, so that only a large number costs memory
	return &large
}
