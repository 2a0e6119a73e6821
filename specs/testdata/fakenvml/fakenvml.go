// Package fakenvml is a pretended NVIDIA driver library for tests on hosts
// without a GPU: a real shared library that go-nvml loads, so that the binding
// and the loading are tested too. What it reports comes from a text file, one
// statement a line, and changes when lines are appended. CARD is a slot from 0
// to 15, or SLOT.PART for a MIG device; sizes are MiB.
//
//	card CARD uuid=… name=A_B total=… reserved=… used=… busy=… celsius=… milliwatt=… mig=1 ecc=1
//	card SLOT.PART uuid=… name=… total=… instance=… compute=…
//	gone CARD             taken out; the driver counts the others anew
//	holds CARD PID SIZE   a process holds memory until "holds CARD PID 0"; SIZE ? is not told
//	runs CARD PID SIZE    the same, for as long as the process lives
//	event SLOT xid N [INSTANCE COMPUTE]
//	event SLOT dbe
//	lost SLOT             every call answers "GPU is lost", until "well SLOT"
//	stale SLOT            the same, until the library is initialised anew
//	fail CARD KIND CODE   calls of all, memory, processes, sensors, events or wait answer CODE; 0 ends it
//	init CODE             what nvmlInit answers from now on; 9 is a driver that is not loaded
//	slow MILLISECONDS     every call takes that much longer
//
// In a card's name an underscore stands for a blank. Without the file there is
// no driver.
package fakenvml

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Env names the environment variable that holds the path of the file.
const Env = "HIVE_FAKENVML"

// ErrNoCompiler means that this host cannot build the library.
var ErrNoCompiler = errors.New("gcc is not installed, and the pretended GPU driver is built with it")

//go:embed lib/nvml.c
var source []byte

// Build compiles the library into dir and returns its path. The error wraps
// ErrNoCompiler where there is no gcc.
func Build(dir string) (string, error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", ErrNoCompiler
	}
	src, lib := filepath.Join(dir, "nvml.c"), filepath.Join(dir, "libnvidia-ml.so.1")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		return "", fmt.Errorf("write the source of the pretended GPU driver: %w", err)
	}
	out, err := exec.Command(gcc, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread",
		"-Wl,-soname,libnvidia-ml.so.1", "-o", lib, src).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the pretended GPU driver: %w\n%s", err, out)
	}
	return lib, nil
}

// File is the file that steers the library.
type File string

// Start makes the file anew: a driver without cards. A former one is forgotten.
func Start(path string) (File, error) {
	if err := os.WriteFile(path, fmt.Appendf(nil, "# since %d\n", time.Now().UnixNano()), 0o600); err != nil {
		return "", fmt.Errorf("start the pretended GPU driver: %w", err)
	}
	return File(path), nil
}

// Say appends statements; all of them take effect together.
func (f File) Say(statements ...string) error {
	w, err := os.OpenFile(string(f), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("steer the pretended GPU driver: %w", err)
	}
	_, err = w.WriteString(strings.Join(statements, "\n") + "\n")
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("steer the pretended GPU driver: %w", err)
	}
	return nil
}
