package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
)

// checkReport is `hive check -o json`.
type checkReport struct {
	File         string            `json:"file"`
	OK           bool              `json:"ok"`
	Workers      int               `json:"workers"`
	Problems     messages.Problems `json:"problems"`      // of the form: hive up refuses the file
	HostProblems messages.Problems `json:"host_problems"` // of this host: the worker named cannot start
}

func newCheck(a *app) *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file",
		Long: `Check a configuration file, without a running hive. Every problem is printed, one
per line, with its place in the file.

A wrong form (unknown key, bad value) ends with exit code 78, and "hive up" would
refuse the file. What is missing on this host (a binary, a model, a user) is a
warning: hive would start, and only that worker would not. With --strict a warning
ends with exit code 1.`,
		Example: `  hive check
  hive check --strict /etc/hive/hive.yaml
  hive check -o json`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file := a.configPath
			switch {
			case len(args) == 1 && file != "" && file != args[0]:
				return usagef("hive check reads one file; you named %s and %s", file, args[0])
			case len(args) == 1:
				file = args[0]
			case file == "":
				file = defaultConfig
			}
			return a.check(file, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings end with exit code 1")
	return cmd
}

func (a *app) check(file string, strict bool) error {
	report := checkReport{File: file, Problems: messages.Problems{}, HostProblems: messages.Problems{}}
	c, err := config.Load(file)
	var problems messages.Problems
	switch {
	case errors.As(err, &problems):
		report.Problems = problems
	case err != nil:
		return withCode(exitConfig, err)
	default:
		report.Workers = len(c.Workers)
		if host := config.HostProblems(c); host != nil {
			report.HostProblems = host
		}
	}
	report.OK = len(report.Problems) == 0
	if a.json() {
		if err := a.writeJSON(report); err != nil {
			return err
		}
	} else {
		a.printf("%s", checkText(report))
	}
	switch {
	case !report.OK:
		return &codeError{code: exitConfig, err: report.Problems, quiet: true}
	case strict && len(report.HostProblems) > 0:
		return &codeError{code: exitRefused, err: report.HostProblems, quiet: true}
	}
	return nil
}

func checkText(r checkReport) string {
	var b strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintln(&b, problemLine(withFile(p, r.File), ""))
	}
	for _, p := range r.HostProblems {
		fmt.Fprintln(&b, problemLine(withFile(p, r.File), "warning: "))
	}
	switch {
	case !r.OK:
		fmt.Fprintf(&b, "%s: %s; hive would refuse it\n", r.File, count(len(r.Problems), "problem"))
	case len(r.HostProblems) > 0:
		fmt.Fprintf(&b, "%s: the form is right, %s; this host cannot start every worker (%s)\n",
			r.File, count(r.Workers, "worker"), count(len(r.HostProblems), "warning"))
	default:
		fmt.Fprintf(&b, "%s: in order, %s\n", r.File, count(r.Workers, "worker"))
	}
	return b.String()
}

func withFile(p messages.Problem, file string) messages.Problem {
	if p.File == "" {
		p.File = file
	}
	return p
}

// problemLine writes a problem as compilers do, so that editors can jump to it:
// "hive.yaml:12:5: workers[0].restart.policy: ...". kind goes before the path.
func problemLine(p messages.Problem, kind string) string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0 && p.Column > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	case p.File != "":
		fmt.Fprintf(&b, "%s: ", p.File)
	case p.Line > 0:
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	b.WriteString(kind)
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return printable(b.String())
}

// count writes "1 worker" and "2 workers".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of hive.yaml",
		Long: `Print the JSON schema of hive.yaml, for an editor that completes and checks while
you write.`,
		Example: `  hive schema > hive.schema.json
  # first line of hive.yaml:  # yaml-language-server: $schema=./hive.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := config.Schema()
			if err != nil {
				return withCode(exitInternal, err)
			}
			return a.writeRaw(b)
		},
	}
}
