package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// plainStart starts command in a process group of its own, and does no more.
func plainStart(command []string) (*exec.Cmd, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	return cmd, nil
}

// plainKillAndReplace kills and starts command anew n times, and returns how
// long each replacement took from the kill on.
func plainKillAndReplace(command []string, n int) ([]time.Duration, error) {
	cmd, err := plainStart(command)
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, n)
	for range n {
		t0 := time.Now()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed" is what was asked for
		if cmd, err = plainStart(command); err != nil {
			return nil, err
		}
		took = append(took, time.Since(t0))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return took, nil
}

// plainMany starts n of command and returns them with how long that took.
func plainMany(command []string, n int) ([]*exec.Cmd, time.Duration, error) {
	cmds := make([]*exec.Cmd, 0, n)
	t0 := time.Now()
	for range n {
		cmd, err := plainStart(command)
		if err != nil {
			plainEnd(cmds, syscall.SIGKILL, 0)
			return nil, 0, err
		}
		cmds = append(cmds, cmd)
	}
	return cmds, time.Since(t0), nil
}

// plainEnd sends sig to every group, SIGKILL after grace to those still there,
// and returns how long it took until the last one was waited for.
func plainEnd(cmds []*exec.Cmd, sig syscall.Signal, grace time.Duration) time.Duration {
	t0 := time.Now()
	for _, c := range cmds {
		_ = syscall.Kill(-c.Process.Pid, sig)
	}
	ended := make(chan struct{}, len(cmds))
	for _, c := range cmds {
		go func() { _ = c.Wait(); ended <- struct{}{} }()
	}
	late := time.After(grace)
	if sig == syscall.SIGKILL {
		late = nil
	}
	for n := 0; n < len(cmds); {
		select {
		case <-ended:
			n++
		case <-late:
			for _, c := range cmds {
				_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			}
		}
	}
	return time.Since(t0)
}

// warm runs command once, so that neither side pays for a cold page cache.
func warm(command []string) error {
	if _, err := exec.LookPath(command[0]); err != nil {
		return fmt.Errorf("the scenario runs %s: %w", command[0], err)
	}
	cmd, err := plainStart(command)
	if err != nil {
		return err
	}
	_ = cmd.Process.Signal(os.Kill)
	_ = cmd.Wait()
	return nil
}
