// Command hive is the daemon and its command line in one binary: `hive up`
// runs a hive, every other verb talks to one.
package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	a := newApp(os.Stdout, os.Stderr, os.Getenv)
	os.Exit(a.execute(context.Background(), os.Args[1:]))
}

// execute runs one command line and returns the process's exit code. The one
// line an error gets is written here and nowhere else.
func (a *app) execute(ctx context.Context, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.ran {
		// cobra refused the line before any verb began: unknown verb, unknown
		// flag, wrong number of arguments.
		err = &usageError{err: err}
	}
	return a.report(err)
}

// newRoot builds the whole command tree around a.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "hive",
		Short: "Keep GPU inference workers alive",
		Long: `hive keeps model-serving processes alive: it starts them, watches them, restarts
them, and ends them so that nothing is left behind.

"hive up" runs a hive on this host. The other commands talk to it, by its socket
in the data directory, or over the network with --url and --token.

Exit codes: 0 done, 1 refused by hive, 2 wrong usage, 3 no hive reachable,
70 internal error, 75 already running, 78 bad configuration.`,
		Example: `  hive demo                            # a hive with demo workers, to look around
  hive up -c hive.yaml                 # run a hive
  hive ps                              # what runs
  hive run --gpu 1 chat -- llama-server -m /models/a.gguf --port '${PORT}'
  hive wait --for=ready chat && hive logs -f chat`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.ran = true
			return a.checkFlags(cmd)
		},
	}
	root.SetOut(a.out)
	root.SetErr(a.errOut)

	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "text", "output format: text or json")
	f.StringVar(&a.url, "url", "", "address of the hive, such as http://host:7070 or unix:///path (HIVE_URL)")
	f.StringVar(&a.token, "token", "", "API token for --url (HIVE_TOKEN)")
	f.StringVar(&a.dataDir, "data-dir", "", "data directory of the hive (HIVE_DATA_DIR; default from hive.yaml, else ./hive-data)")
	f.StringVarP(&a.configPath, "config", "c", "", "configuration file (default ./hive.yaml when present)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))

	addGroup(root, "daemon", "Run a hive:", newUp(a), newDemo(a), newDown(a))
	addGroup(root, "look", "Look:", newPs(a), newShow(a), newLogs(a), newEvents(a), newPools(a), newWait(a))
	addGroup(root, "change", "Change workers:", append([]*cobra.Command{newRun(a), newRm(a)}, newVerbs(a)...)...)
	addGroup(root, "pool", "Change pools:", newCordon(a), newUncordon(a))
	addGroup(root, "config", "Configuration and host:",
		newCheck(a), newPlan(a), newReload(a), newSchema(a), newStates(a), newDoctor(a), newVersion(a))
	return root
}

func addGroup(root *cobra.Command, id, title string, cmds ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: id, Title: title})
	for _, c := range cmds {
		c.GroupID = id
		root.AddCommand(c)
	}
}

// requestTimeout bounds one question that is not a stream. hive answers reads
// from memory and accepts a verb at once, so ten seconds mean that it hangs.
const requestTimeout = 10 * time.Second
