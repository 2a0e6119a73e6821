package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// The exit codes, all of them. 70, 75 and 78 are those of sysexits.h
// (EX_SOFTWARE, EX_TEMPFAIL, EX_CONFIG); 130 is the shell's 128 + SIGINT.
const (
	exitOK          = 0
	exitRefused     = 1 // hive answered no, or what was waited for did not come
	exitUsage       = 2
	exitUnreachable = 3 // no hive answers
	exitInternal    = 70
	exitRunning     = 75 // another hive holds this data directory
	exitConfig      = 78
	exitInterrupted = 130
)

// usageError is a command line that cannot be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// codeError carries the exit code its maker chose. Quiet means that what there
// was to say has been printed.
type codeError struct {
	code  int
	err   error
	quiet bool
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// withCode makes err end the process with the given exit code; nil stays nil.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codeError{code: code, err: err}
}

// exitCode is the one place where an error becomes an exit code.
func exitCode(err error) int {
	var (
		coded    *codeError
		usage    *usageError
		noHive   *unreachableError
		problems messages.Problems
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &noHive):
		return exitUnreachable
	case errors.As(err, &problems):
		return exitConfig
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitRefused
}

// report writes err for a person to stderr and returns the exit code.
func (a *app) report(err error) int {
	code := exitCode(err)
	var coded *codeError
	if err == nil || code == exitInterrupted || errors.As(err, &coded) && coded.quiet {
		return code
	}
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) && code != exitUsage {
		if joined := several.Unwrap(); len(joined) > 1 && err.Error() == errors.Join(joined...).Error() {
			for _, one := range joined {
				a.report(one)
			}
			return code
		}
	}
	text := err.Error()
	var problems messages.Problems
	var refused *apiError
	switch {
	case errors.As(err, &problems) && len(problems) > 1:
		text = fmt.Sprintf("the configuration has %d problems; correct them and try again", len(problems))
		for _, p := range problems {
			text += "\n  " + problemLine(p, "")
		}
	case errors.As(err, &refused) && len(refused.Errors) > 0:
		for _, p := range refused.Errors {
			text += "\n  " + problemLine(p, "")
		}
	}
	fmt.Fprintf(a.errOut, "hive: %s\n", printableLines(text))
	if code == exitUsage && !strings.Contains(text, "hive help") {
		fmt.Fprintln(a.errOut, `run "hive help" or "hive COMMAND --help" to see what can be said`)
	}
	return code
}
