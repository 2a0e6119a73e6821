package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/rbee-hive/hive/messages"
)

func newPools(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "pools",
		Aliases: []string{"gpus"},
		Short:   "List the pools and their devices",
		Long: `List the pools: one per GPU, and cpu for workers that ask for none. LEASED is the
device memory promised to workers, USED what is in use by anyone, and FOREIGN what
processes use that hive did not start; they are listed below the table.`,
		Example: "  hive pools\n  hive pools -o json",
		Args:    cobra.NoArgs,
		RunE: a.action(func(ctx context.Context, c *client, _ []string) error {
			pools, raw, err := c.pools(ctx)
			switch {
			case err != nil:
				return err
			case a.json():
				return a.writeRaw(raw)
			}
			a.printf("%s", poolsTable(pools, a.term))
			return nil
		}),
	}
}

// poolState is a pool's standing in one word.
func poolState(p messages.PoolStatus) string {
	switch {
	case p.Cordoned:
		return "cordoned"
	case p.Degraded:
		return "degraded"
	}
	return "open"
}

func poolsTable(pools []messages.PoolStatus, term terminal) string {
	t := table{header: []string{"NAME", "STATE", "HEALTH", "DEVICE", "TOTAL", "LEASED", "USED", "FOREIGN", "WORKERS", "BUDGET", "REASON"}}
	foreign := ""
	for _, p := range pools {
		device, sizes := "-", [4]string{"-", "-", "-", "-"}
		if p.Device != nil {
			device = p.Device.Name
			if p.Device.Fake {
				device += " (fake)"
			}
			var strangers uint64
			for _, f := range p.Ledger.Foreign {
				strangers += f.Bytes
				foreign += printable(fmt.Sprintf("%s: pid %d %s uses %s and was not started by hive", p.Name, f.PID, f.Command, bytesOf(f.Bytes))) + "\n"
			}
			sizes = [4]string{bytesOf(p.Ledger.Total), bytesOf(p.Ledger.Leased), bytesOf(p.Ledger.Used), bytesOf(strangers)}
		}
		tint := green
		if p.Cordoned || p.Degraded {
			tint = yellow
		}
		t.add(text(string(p.Name)), cell{poolState(p), tint}, text(orDash(p.Health)), text(device), text(sizes[0]), text(sizes[1]),
			text(sizes[2]), text(sizes[3]), text(fmt.Sprint(len(p.Workers))), text(fmt.Sprintf("%d/%d", p.Budget.Used, p.Budget.Max)), text(p.Reason))
	}
	return t.render(term) + foreign
}

func newCordon(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "cordon POOL...",
		Short: "Start nothing new in a pool",
		Long: `Start nothing new in a pool. What runs there goes on; stop or restart it to empty the
device. "hive uncordon" opens the pool again.`,
		Example:           "  hive cordon gpu-0 --reason \"fan replaced on Friday\"",
		Args:              needNames(1),
		ValidArgsFunction: a.completePools,
		RunE: a.action(func(ctx context.Context, c *client, names []string) error {
			var body any
			if reason != "" {
				body = map[string]string{"reason": reason}
			}
			return a.poolVerb(ctx, c, "cordon", "cordoned", names, body)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who look later")
	return cmd
}

func newUncordon(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "uncordon POOL...",
		Short:             "Allow new starts in a pool again",
		Long:              "Allow new starts in a pool that was cordoned, by a person or because its device was sick.",
		Example:           "  hive uncordon gpu-0",
		Args:              needNames(1),
		ValidArgsFunction: a.completePools,
		RunE: a.action(func(ctx context.Context, c *client, names []string) error {
			return a.poolVerb(ctx, c, "uncordon", "open", names, nil)
		}),
	}
}

func (a *app) poolVerb(ctx context.Context, c *client, verb, word string, names []string, body any) error {
	var errs []error
	for _, name := range names {
		raw, err := c.call(ctx, http.MethodPost, "/v1/pools/"+url.PathEscape(name)+"/"+verb, nil, body, nil)
		switch {
		case err != nil:
			errs = append(errs, err)
		case a.json() && len(raw) > 0:
			errs = append(errs, a.writeRaw(raw))
		case !a.json():
			a.printf("%s %s\n", name, word)
		}
	}
	return errors.Join(errs...)
}
