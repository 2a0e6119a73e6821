package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// The roles in which fakeworker calls itself.
const (
	roleGrandchild = "grandchild" // own session, holds the port
	roleBetween    = "between"    // makes the daemon and exits, so that the daemon has no parent
	roleDaemon     = "daemon"
	roleMessenger  = "messenger" // own session, sends one datagram
)

// portFD is where the grandchild finds the listening socket: the first of
// exec.Cmd's ExtraFiles.
const portFD = 3

// spawnOffspring starts what the flags ask for and prints the pids.
func (w *process) spawnOffspring(l net.Listener) {
	if w.grandchild {
		cmd := w.self(roleGrandchild)
		if t, ok := l.(*net.TCPListener); ok {
			f, err := t.File()
			if err != nil {
				fmt.Fprintf(os.Stderr, "share the port with the grandchild: %v\n", err)
				os.Exit(70)
			}
			defer f.Close()
			cmd.ExtraFiles = []*os.File{f}
		}
		w.start(cmd)
		fmt.Printf("grandchild pid %d\n", cmd.Process.Pid)
	}
	if w.daemonizeChild {
		cmd := w.self(roleBetween)
		out, err := cmd.Output()
		if err != nil {
			fmt.Fprintf(os.Stderr, "make the daemon: %v\n", err)
			os.Exit(70)
		}
		fmt.Printf("daemon pid %s\n", out)
	}
	for range w.zombies {
		cmd := exec.Command("true")
		w.start(cmd) // and nobody waits for it
	}
}

func (w *process) self(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "--as", role, "--offspring-life", w.offspringLife.String(),
		"--mark", w.mark, fmt.Sprintf("--clear-env=%t", w.clearEnv), fmt.Sprintf("--hold-stdout=%t", w.holdStdout))
	cmd.Args[0] = "fakeworker"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if w.holdStdout {
		cmd.Stderr = os.Stderr
		if role != roleBetween { // its stdout is read for the daemon's pid
			cmd.Stdout = os.Stdout
		}
	}
	return cmd
}

func (w *process) start(cmd *exec.Cmd) {
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "start %s: %v\n", cmd.Path, err)
		os.Exit(70)
	}
}

// beOffspring is main for a process that fakeworker started itself.
func beOffspring(h habits) {
	if h.role == roleMessenger {
		beMessenger()
		return
	}
	if h.role == roleBetween {
		w := &process{habits: h}
		cmd := w.self(roleDaemon)
		if h.holdStdout {
			cmd.Stdout = os.Stderr // its own stdout is where the pid goes
		}
		if h.clearEnv {
			cmd.Env = []string{}
		}
		w.start(cmd)
		fmt.Print(cmd.Process.Pid)
		return
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if h.role == roleGrandchild {
		syscall.CloseOnExec(portFD) // and otherwise left alone: an open listener holds the port
	}
	time.Sleep(h.offspringLife)
}
