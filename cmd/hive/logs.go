package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

func newLogs(a *app) *cobra.Command {
	var follow bool
	var tail int
	var attempt uint64
	cmd := &cobra.Command{
		Use:   "logs [-f] NAME",
		Short: "Print what a worker wrote",
		Long: `Print the last lines a worker wrote to stdout and stderr. With -f, go on with what
it writes from now on until Ctrl-C. Lines are passed on as the worker wrote them.`,
		Example: `  hive logs chat-1
  hive logs -f --tail 10 chat-1
  hive logs --attempt 3 chat-1         # what the third process wrote`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("hive logs prints one worker at a time; you named %d", len(args))
			}
			return needNames(1)(cmd, args)
		},
		ValidArgsFunction: a.completeWorkers,
		RunE: a.action(func(ctx context.Context, c *client, args []string) error {
			if tail < 0 {
				return usagef("--tail %d is negative; write a number of lines", tail)
			}
			query := url.Values{"tail": {strconv.Itoa(tail)}}
			if follow {
				query.Set("follow", "true")
			}
			if attempt > 0 {
				query.Set("attempt", strconv.FormatUint(attempt, 10))
			}
			return a.logs(ctx, c, args[0], query)
		}),
	}
	fl := cmd.Flags()
	fl.BoolVarP(&follow, "follow", "f", false, "go on with what is written from now on")
	fl.IntVarP(&tail, "tail", "n", 100, "how many of the last lines")
	fl.Uint64Var(&attempt, "attempt", 0, "the attempt to read (0 = the newest)")
	return cmd
}

func (a *app) logs(ctx context.Context, c *client, name string, query url.Values) error {
	resp, err := c.stream(ctx, http.MethodGet, workerPath(name)+"/logs", query, nil)
	if err != nil {
		return ended(ctx, err)
	}
	defer resp.Body.Close()
	if !a.json() {
		_, err = io.Copy(a.out, resp.Body)
	} else {
		err = jsonLines(a.out, resp.Body)
	}
	if err != nil && ctx.Err() == nil {
		return c.unreachable(fmt.Errorf("%w: %w", errBroken, err))
	}
	return nil
}

// ended makes an interrupted stream no error: Ctrl-C is how a person ends it.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// jsonLines writes each line as {"line": "..."}.
func jsonLines(w io.Writer, r io.Reader) error {
	in := bufio.NewReader(r)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			if line[len(line)-1] == '\n' {
				line = line[:len(line)-1]
			}
			if e := enc.Encode(map[string]string{"line": line}); e != nil {
				return e
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
