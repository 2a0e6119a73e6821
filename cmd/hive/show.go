package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

func newShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME...",
		Aliases: []string{"status", "inspect"},
		Short:   "Show all that is known of a worker",
		Long: `Show all that is known of a worker: state and reason, process, devices, restart
budget, and how the last attempt ended with the last lines it wrote.`,
		Example: `  hive show chat-1
  hive show chat-1 -o json`,
		Args:              needNames(1),
		ValidArgsFunction: a.completeWorkers,
		RunE: a.action(func(ctx context.Context, c *client, names []string) error {
			for i, name := range names {
				w, raw, err := c.worker(ctx, name)
				if err != nil {
					return err
				}
				if a.json() {
					if err := a.writeRaw(raw); err != nil {
						return err
					}
					continue
				}
				if i > 0 {
					a.printf("\n")
				}
				a.printf("%s", showText(w, a.now(), a.term))
			}
			return nil
		}),
	}
}

// showText is `hive show` for people.
func showText(w messages.WorkerStatus, now time.Time, term terminal) string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", key, printable(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(&b, "%-12s %s\n", "name", term.paint(bold, string(w.Name)))
	since := ""
	if !w.Since.IsZero() {
		since = fmt.Sprintf(" for %s", age(now.Sub(w.Since)))
	}
	fmt.Fprintf(&b, "%-12s %s%s\n", "state", term.paint(stateColour(w.State), stateText(w, term)), since)
	if w.Reason != "" {
		line("reason", "%s", w.Reason)
	}
	if w.Progress != nil {
		line("progress", "%s", progressText(*w.Progress, term))
	}
	if w.Said != "" {
		line("it says", "%s", w.Said)
	}
	if w.StopBy != nil {
		line("ends", "%s", stopByText(*w.StopBy, now))
	}
	pid := "no process"
	if w.PID != 0 {
		pid = fmt.Sprintf("pid %d", w.PID)
		if !w.StartedAt.IsZero() {
			pid += fmt.Sprintf(", up %s", age(now.Sub(w.StartedAt)))
		}
		if !w.ReadyAt.IsZero() && w.ReadyAt.After(w.StartedAt) {
			pid += fmt.Sprintf(", ready after %s", age(w.ReadyAt.Sub(w.StartedAt)))
		}
	}
	line("process", "%s, attempt %s", pid, number(w.Attempt))
	pool := orDash(string(w.Pool))
	if len(w.GPUs) > 0 {
		pool += " (" + strings.Join(w.GPUs, ", ") + ")"
	}
	line("pool", "%s", pool)
	if w.URL != "" {
		line("url", "%s", w.URL)
	} else if w.Port != 0 {
		line("port", "%d", w.Port)
	}
	line("engine", "%s", orDash(w.Engine))
	if w.Model != "" {
		line("model", "%s", w.Model)
	}
	if len(w.Command) > 0 {
		line("command", "%s", commandLine(w.Command))
	}
	if len(w.Labels) > 0 {
		line("labels", "%s", pairs(w.Labels))
	}
	if w.Source != "" {
		line("declared by", "%s", w.Source)
	}
	line("in flight", "%d", w.InFlight)
	line("heartbeat", "%s", heartbeatText(w.Heartbeat))
	if text := statsText(w.Stats); text != "" {
		line("work", "%s", text)
	}
	line("resources", "%s", resourcesText(w.Resources))
	line("restarts", "%s", budgetText(w.Restarts, now))
	if w.LastExit != nil {
		b.WriteString(lastExitText(*w.LastExit, now, term))
	}
	return b.String()
}

func heartbeatText(h messages.Heartbeat) string {
	if h.AgeSeconds == nil {
		return orDash(h.Kind)
	}
	return fmt.Sprintf("%s, last %s ago", orDash(h.Kind), age(seconds(*h.AgeSeconds)))
}

// statsText is what is known of a worker's work, "" when nothing is.
func statsText(s *messages.Stats) string {
	if s == nil {
		return ""
	}
	var parts []string
	add := func(format string, v any, known bool) {
		if known {
			parts = append(parts, fmt.Sprintf(format, v))
		}
	}
	add("%d queued", value(s.QueueDepth), s.QueueDepth != nil)
	add("%.0f tokens", value(s.TokensTotal), s.TokensTotal != nil)
	add("%.1f tokens/s", value(s.TokensPerSecond), s.TokensPerSecond != nil)
	add("p50 %.0f ms", value(s.LatencyP50), s.LatencyP50 != nil)
	add("p99 %.0f ms", value(s.LatencyP99), s.LatencyP99 != nil)
	if n := value(s.Requests); n > 0 && s.RequestSeconds != nil {
		add("%.0f ms a request", 1000**s.RequestSeconds/n, true)
	}
	add("KV cache %.0f%%", 100*value(s.KVCacheUsed), s.KVCacheUsed != nil)
	add("GPU %.0f%%", 100*value(s.GPUUtilization), s.GPUUtilization != nil)
	return strings.Join(parts, ", ")
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// progressText is how far a load came, and how hive knows.
func progressText(p messages.Progress, term terminal) string {
	s := percent(p.Value)
	if term.tty {
		s = term.bar(p.Value, 20) + " " + s
	}
	if p.Stage != "" {
		s = p.Stage + " " + s
	}
	if p.Source != "" {
		s += ", source " + p.Source
	}
	return s
}

// stopByText is how long an ending worker still has.
func stopByText(at, now time.Time) string {
	if left := at.Sub(now); left > 0 {
		return fmt.Sprintf("in %s, then by force", age(left))
	}
	return "now, by force"
}

func resourcesText(r messages.Resources) string {
	s := fmt.Sprintf("memory %s, cpu time %s", bytesOf(r.MemoryBytes), age(seconds(messages.Seconds(r.CPUSeconds))))
	if len(r.Unenforced) > 0 {
		s += "; this host cannot hold: " + strings.Join(r.Unenforced, ", ")
	}
	return s
}

func budgetText(r messages.Restarts, now time.Time) string {
	s := fmt.Sprintf("%d in all, %d of %d in the window", r.Total, r.InWindow, r.Max)
	if r.NextAt != nil {
		s += fmt.Sprintf(", next attempt in %s", age(r.NextAt.Sub(now)))
	}
	return s
}

func lastExitText(e messages.LastExit, now time.Time, term terminal) string {
	var b strings.Builder
	how := "end unknown"
	switch {
	case e.Signal != "":
		how = e.Signal
	case e.Code != nil:
		how = fmt.Sprintf("exit code %d", *e.Code)
	}
	if e.CoreDumped {
		how += ", core dumped"
	}
	if e.OOMKilled {
		how += ", out of memory"
	}
	fmt.Fprintf(&b, "%-12s %s (%s) after %s, %s ago, attempt %s\n", "last exit", e.Cause, printable(how),
		age(seconds(e.UptimeSeconds)), age(now.Sub(e.At)), number(e.Attempt))
	if e.Detail != "" {
		fmt.Fprintf(&b, "%-12s %s\n", "", printable(e.Detail))
	}
	if len(e.LogTail) > 0 {
		fmt.Fprintf(&b, "last lines it wrote:\n")
		for _, l := range e.LogTail {
			b.WriteString(term.paint(dim, "  | "+printable(l)) + "\n")
		}
	}
	return b.String()
}

func seconds(s messages.Seconds) time.Duration {
	return time.Duration(float64(s) * float64(time.Second))
}

// pairs writes a map as sorted key=value words.
func pairs(m map[string]string) string {
	var all []string
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// commandLine writes an argument list so that its borders can be seen.
func commandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = arg
		if arg == "" || strings.ContainsAny(arg, " \t\n\"'\\") {
			quoted[i] = fmt.Sprintf("%q", arg)
		}
	}
	return strings.Join(quoted, " ")
}
