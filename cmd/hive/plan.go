package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/config"
	"github.com/rbee-hive/hive/messages"
)

func newPlan(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what a reload would change",
		Long: `Ask the running hive what a reload of its configuration file would change, and do
nothing. + is started, - is stopped, ~ is changed; a worker that is not named keeps
its process. A file named with -c is checked here first.`,
		Example: "  hive plan\n  hive plan -c hive.yaml -o json",
		Args:    cobra.NoArgs,
		RunE: a.action(func(ctx context.Context, c *client, _ []string) error {
			return a.reload(ctx, c, true)
		}),
	}
}

func newReload(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Read the configuration file again",
		Long: `Make the running hive read its configuration file again and apply what differs.
Workers that did not change keep their process. A file with a wrong form is refused
whole and changes nothing. SIGHUP does the same.`,
		Example: "  hive check && hive plan && hive reload",
		Args:    cobra.NoArgs,
		RunE: a.action(func(ctx context.Context, c *client, _ []string) error {
			return a.reload(ctx, c, false)
		}),
	}
}

func (a *app) reload(ctx context.Context, c *client, dryRun bool) error {
	if a.configPath != "" {
		if _, err := config.Load(a.configPath); err != nil {
			return withCode(exitConfig, err)
		}
	}
	var query url.Values
	if dryRun {
		query = url.Values{"dry_run": {"true"}}
	}
	var plan messages.Plan
	raw, err := c.call(ctx, http.MethodPost, "/v1/reload", query, nil, &plan)
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeRaw(raw)
	}
	a.printf("%s", planText(plan, dryRun, a.term))
	return nil
}

// planText writes a plan for people.
func planText(p messages.Plan, dryRun bool, term terminal) string {
	var b strings.Builder
	for _, w := range p.Start {
		fmt.Fprintln(&b, term.paint(green, fmt.Sprintf("+ %s", w)))
	}
	for _, w := range p.Stop {
		fmt.Fprintln(&b, term.paint(red, fmt.Sprintf("- %s", w)))
	}
	for _, c := range p.Restart {
		fmt.Fprintln(&b, term.paint(yellow, fmt.Sprintf("~ %s restart (%s)", c.Worker, strings.Join(c.Keys, ", "))))
	}
	for _, c := range p.Update {
		fmt.Fprintln(&b, term.paint(cyan, fmt.Sprintf("~ %s in place (%s)", c.Worker, strings.Join(c.Keys, ", "))))
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "! %s\n", printable(n))
	}
	done := "changed"
	if dryRun {
		done = "would change"
	}
	if changes := len(p.Start) + len(p.Stop) + len(p.Restart) + len(p.Update); changes == 0 {
		fmt.Fprintf(&b, "nothing %s, %d unchanged\n", done, len(p.Unchanged))
	} else {
		fmt.Fprintf(&b, "%s %s, %d unchanged\n", count(changes, "worker"), done, len(p.Unchanged))
	}
	return b.String()
}
