package process

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// BenchmarkStart is what hive's start of a process costs beside a plain one's.
func BenchmarkStart(b *testing.B) {
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.Command("sleep", "1000")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			b.StartTimer()
		}
	})
	for name, bare := range map[string]bool{"leaf": false, "no leaf": true} {
		b.Run(name, func(b *testing.B) {
			r, err := NewRunner()
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			if r.grove == nil && !bare {
				b.Skip("this host has no writable cgroup2 folder")
			}
			if bare {
				r.grove.close()
				r.grove = nil
			}
			for b.Loop() {
				p, err := r.Start(Spec{Command: []string{"sleep", "1000"}, Env: os.Environ(), Output: out, MarkKey: "HIVE_MARK", MarkValue: "x"})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				_, _ = p.KillTree()
				p.Wait()
				p.Close()
				b.StartTimer()
			}
		})
	}
}
