package hive

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/logs"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/process"
)

// probeEvery is how often a loading worker is asked: often enough that a load of
// a second is not doubled, rarely enough to cost nothing.
const (
	probeEvery   = 100 * time.Millisecond
	probeTimeout = 2 * time.Second
)

// prober looks for readiness from outside.
type prober struct {
	client *fasthttp.Client
	logs   *logs.Keeper
	runner *process.Runner
}

// wait blocks until one rule of the spec holds or ctx ends. With several rules
// the strongest wins: http, then tcp, then the log pattern, then the command.
func (p *prober) wait(ctx context.Context, s messages.WorkerSpec, a messages.Attempt, port int) error {
	addr := net.JoinHostPort(workerHost, strconv.Itoa(port))
	switch {
	case s.Ready.HTTP != "":
		return p.every(ctx, func() bool { return p.healthy("http://" + addr + s.Ready.HTTP) })
	case s.Ready.TCP:
		return p.every(ctx, func() bool {
			c, err := net.DialTimeout("tcp", addr, probeTimeout)
			if err != nil {
				return false
			}
			_ = c.Close()
			return true
		})
	case s.Ready.Log != "":
		return p.logged(ctx, s, a)
	}
	return p.every(ctx, func() bool { return p.succeeds(ctx, s, a, port) })
}

func (p *prober) every(ctx context.Context, ready func() bool) error {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}

// healthy is true for any 2xx answer.
func (p *prober) healthy(url string) bool {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(url)
	req.Header.Set(fasthttp.HeaderConnection, "close") // a probe holds nothing open
	err := p.client.DoTimeout(req, resp, probeTimeout)
	return err == nil && resp.StatusCode() >= 200 && resp.StatusCode() < 300
}

func (p *prober) logged(ctx context.Context, s messages.WorkerSpec, a messages.Attempt) error {
	re, err := regexp.Compile(s.Ready.Log)
	if err != nil {
		return fmt.Errorf("ready.log of worker %s: %w", s.Name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var line []byte
	seen := false
	err = p.logs.Follow(ctx, s.Name, a, 1000, func(b []byte) error {
		for _, c := range b {
			if c != '\n' {
				line = append(line, c)
				continue
			}
			if re.Match(line) {
				seen = true
				cancel()
				return context.Canceled
			}
			line = line[:0]
		}
		return nil
	})
	if seen {
		return nil
	}
	<-ctx.Done() // the process has ended or the watch is over: not for us to judge
	return err
}

// succeeds runs the readiness command to its end; exit code 0 is ready.
func (p *prober) succeeds(ctx context.Context, s messages.WorkerSpec, a messages.Attempt, port int) bool {
	vars := config.Vars{Port: port, Host: workerHost, Attempt: a}
	_, env, err := config.Expand(s, vars)
	if err != nil {
		return false
	}
	command, err := config.ExpandList(s, "ready.command", s.Ready.Command, vars)
	if err != nil {
		return false
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	defer null.Close()
	list := os.Environ()
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	list = append(list, "HOST="+workerHost, "PORT="+strconv.Itoa(port))
	proc, err := p.runner.Start(process.Spec{Command: command, Env: list, Dir: s.Dir, User: s.User, Output: null,
		MarkKey: markKey, MarkValue: fmt.Sprintf("%d/%s/%d/ready", os.Getpid(), s.Name, a)})
	if err != nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { _, _ = proc.KillTree() })
	exit := proc.Wait()
	stop()
	_, _ = proc.KillTree()
	proc.Close()
	return exit.Code == 0 && exit.Signal == 0 && !exit.Unknown
}
