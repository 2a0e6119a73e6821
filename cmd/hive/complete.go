package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

// completionPatience is how long a person who pressed Tab is kept waiting.
const completionPatience = time.Second

// completeWorkers offers the names of workers, with their states as the hint.
func (a *app) completeWorkers(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeNames(cmd, given, func(ctx context.Context, c *client) (names, hints []string) {
		workers, _, err := c.workers(ctx, nil)
		if err != nil {
			return nil, nil
		}
		for _, w := range workers {
			names, hints = append(names, string(w.Name)), append(hints, w.State.String())
		}
		return names, hints
	})
}

// completePools offers the names of pools.
func (a *app) completePools(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeNames(cmd, given, func(ctx context.Context, c *client) (names, hints []string) {
		pools, _, err := c.pools(ctx)
		if err != nil {
			return nil, nil
		}
		for _, p := range pools {
			names, hints = append(names, string(p.Name)), append(hints, poolState(p))
		}
		return names, hints
	})
}

// completeNames asks hive; one that does not answer completes to nothing.
func (a *app) completeNames(cmd *cobra.Command, given []string,
	ask func(context.Context, *client) (names, hints []string)) ([]string, cobra.ShellCompDirective) {
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionPatience)
	defer cancel()
	names, hints := ask(ctx, c)
	var offers []string
	for i, name := range names {
		if len(given) == 0 || !oneOf(given, name) {
			offers = append(offers, name+"\t"+hints[i])
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}

// needNames wants at least n worker (or pool) names that could exist.
func needNames(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("hive %s needs a name, such as \"%s\"; \"hive ps\" lists the workers", cmd.Name(), cmd.CommandPath()+" chat-1")
		}
		for _, name := range args {
			if !messages.ValidName(name) {
				return usagef("%q cannot be a name here; names have the form %s", name, messages.NamePattern)
			}
		}
		return nil
	}
}
