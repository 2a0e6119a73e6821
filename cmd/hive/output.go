package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/rbee-hive/hive/messages"
)

// terminal is what is known of the thing written to.
type terminal struct {
	tty    bool
	colour bool
	live   bool       // a line on it can be drawn again
	blocks bool       // it shows block characters and the ellipsis
	width  func() int // columns; 0 when unknown, then nothing is cut
}

// terminalOf asks the kernel about out. Colours need a terminal and an unset
// NO_COLOR, which is about colours alone. Source: no-color.org.
func terminalOf(out io.Writer, env func(string) string) terminal {
	smart := env("TERM") != "dumb"
	t := terminal{blocks: smart && speaksUTF8(env), width: func() int { n, _ := strconv.Atoi(env("COLUMNS")); return max(n, 0) }}
	f, ok := out.(*os.File)
	if !ok {
		return t
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return t
	}
	t.tty, t.live = true, smart
	t.colour = smart && env("NO_COLOR") == ""
	t.width = func() int {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
		return 80
	}
	return t
}

// speaksUTF8 reports whether the locale's characters are UTF-8; no locale is the
// C locale, which has ASCII. Source: locale(7), the order of the variables.
func speaksUTF8(env func(string) string) bool {
	for _, key := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(env(key)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// colour is a terminal colour by its ANSI number; the zero value is none.
type colour string

const (
	plain  colour = ""
	bold   colour = "1"
	dim    colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	cyan   colour = "36"
)

// paint colours s where that is wanted.
func (t terminal) paint(c colour, s string) string {
	if !t.colour || c == plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// stateColour is the colour of a state.
func stateColour(s messages.State) colour {
	switch s {
	case messages.Idle, messages.Busy:
		return green
	case messages.Pending, messages.Starting, messages.Loading, messages.Backoff:
		return yellow
	case messages.Draining, messages.Stopping:
		return cyan
	case messages.Failed, messages.Crashloop, messages.Unkillable, messages.Lost:
		return red
	case messages.Stopped:
	}
	return dim
}

// cell is one field of a table.
type cell struct {
	text string
	tint colour
}

func text(s string) cell { return cell{text: s} }

// table lines up rows under a header. The last column is cut to the terminal.
// Colours do not count as width, which is why text/tabwriter is not used.
type table struct {
	header []string
	rows   [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// render returns the table; without rows it is the header alone.
func (t *table) render(term terminal) string {
	widths := make([]int, len(t.header))
	for i, h := range t.header {
		widths[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i := range row {
			row[i].text = printable(row[i].text)
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	limit := term.width()
	var b strings.Builder
	line := func(cells []cell) {
		var l strings.Builder
		used := 0
		for i, c := range cells {
			if i == len(cells)-1 {
				s := c.text
				if limit > 0 {
					s = term.cut(s, max(limit-used, 12))
				}
				l.WriteString(term.paint(c.tint, s))
				break
			}
			l.WriteString(term.paint(c.tint, c.text))
			l.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			used += widths[i] + 2
		}
		b.WriteString(strings.TrimRight(l.String(), " "))
		b.WriteByte('\n')
	}
	head := make([]cell, len(t.header))
	for i, h := range t.header {
		head[i] = text(h)
	}
	line(head)
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}

// cut shortens s to n columns, saying so with an ellipsis.
func (t terminal) cut(s string, n int) string {
	more := "…"
	if !t.blocks {
		more = "..."
	}
	if n <= 0 || utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-utf8.RuneCountInString(more), 0)]) + more
}

// controlSequence is a terminal's control sequence, such as a colour.
// Source: ECMA-48, section 5.4.
var controlSequence = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]")

// printable removes what could move the cursor or change the terminal: a
// worker chooses the words of its reasons and log lines, not of our screen.
func printable(s string) string {
	s = controlSequence.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, s)
}

// printableLines is printable that keeps the line breaks.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(printable(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

// barParts are what a bar is drawn with.
func (t terminal) barParts() (full, empty string) {
	if t.blocks {
		return "█", "░"
	}
	return "#", "-"
}

// bar draws value (0 to 1) in width columns.
func (t terminal) bar(value float64, width int) string {
	full, empty := t.barParts()
	n := share(value, width)
	return strings.Repeat(full, n) + strings.Repeat(empty, width-n)
}

// percent writes 0.424 as "42%"; it says 100% only when all is done.
func percent(value float64) string { return fmt.Sprintf("%d%%", share(value, 100)) }

// share is how many of n whole parts value (0 to 1) has reached; 0.29 of 100 is
// 29 although the nearest float is a little less.
func share(value float64, n int) int { return int(min(max(value, 0), 1)*float64(n) + 1e-9) }

// age writes a duration in at most two units: 850ms, 12s, 3m12s, 5h2m, 9d4h.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// bytesOf writes a number of bytes with one decimal: 23.5GiB.
func bytesOf(n uint64) string {
	v, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + units[i]
}

// number writes 0 as "-", for ids that do not exist yet.
func number[N int | uint64 | messages.Attempt](n N) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// writeJSON prints v indented.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeRaw prints an answer as hive gave it, indented; so a field this binary
// does not know yet is not lost.
func (a *app) writeRaw(raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(raw), "", "  "); err != nil {
		return fmt.Errorf("hive's answer is no JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(a.out)
	return err
}
