package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// stateMachine prints the table of worker states as text, json or mermaid. It
// is set once, at start, by the file that links the daemon side; a client that
// links none has none to print.
var stateMachine func(format string) ([]byte, error)

func newStates(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "states",
		Short: "Print the state machine of a worker",
		Long: `Print the table that every worker's life follows: the states, and which event leads
from where to where. What is not in it is refused. No running hive is needed.`,
		Example: `  hive states
  hive states -o mermaid               # a diagram
  hive states -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if stateMachine == nil {
				return withCode(exitInternal, errors.New("this binary was built without the daemon and has no state table; ask a running hive at /v1/state-machine"))
			}
			b, err := stateMachine(a.output)
			if err != nil {
				return withCode(exitInternal, err)
			}
			if a.json() {
				return a.writeRaw(b)
			}
			if n := len(b); n > 0 && b[n-1] != '\n' {
				b = append(b, '\n')
			}
			_, err = a.out.Write(b)
			return err
		},
	}
	// The same flag as the global one, with one more word to offer.
	cmd.Flags().StringVarP(&a.output, "output", "o", "text", "output format: text, json or mermaid")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "mermaid"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
