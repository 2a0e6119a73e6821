package hive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/messages"
)

// stateText says what each state means, for people.
var stateText = map[messages.State]string{
	messages.Pending:    "waits for a device, a port, a dependency or a load slot",
	messages.Starting:   "resources claimed, process being made",
	messages.Loading:    "process lives, not ready",
	messages.Idle:       "ready, nothing in flight",
	messages.Busy:       "in flight >= 1",
	messages.Draining:   "takes no new work",
	messages.Stopping:   "told to end",
	messages.Stopped:    "ended on purpose",
	messages.Failed:     "this attempt ended badly",
	messages.Backoff:    "waits to restart",
	messages.Crashloop:  "gave up fast restarts; retries slowly or waits for a person",
	messages.Unkillable: "survived SIGKILL; reported, never blocks shutdown",
	messages.Lost:       "only in a fleet view: its host is unreachable",
}

// StateMachine prints the table that rules a worker's life, from the table
// itself: format is json, text, mermaid or markdown.
func StateMachine(format string) ([]byte, error) {
	var b bytes.Buffer
	switch format {
	case "json":
		type state struct {
			Name    messages.State `json:"name"`
			Meaning string         `json:"meaning"`
		}
		type row struct {
			From  messages.State `json:"from"`
			Event string         `json:"event"`
			If    string         `json:"if,omitempty"`
			To    messages.State `json:"to"`
		}
		out := struct {
			States      []state `json:"states"`
			Transitions []row   `json:"transitions"`
		}{}
		for _, s := range messages.States() {
			out.States = append(out.States, state{s, stateText[s]})
		}
		for _, r := range worker.Table {
			out.Transitions = append(out.Transitions, row{r.From, string(r.On), guard(r), r.To})
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err := enc.Encode(out)
		return b.Bytes(), err
	case "text", "":
		w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "STATE\tMEANING")
		for _, s := range messages.States() {
			fmt.Fprintf(w, "%s\t%s\n", s, stateText[s])
		}
		fmt.Fprintln(w, "\t\nFROM\tEVENT\tTO\tIF")
		for _, r := range worker.Table {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.From, r.On, r.To, guard(r))
		}
		err := w.Flush()
		return b.Bytes(), err
	case "mermaid":
		mermaid(&b)
		return b.Bytes(), nil
	case "markdown":
		b.WriteString("# A worker's states\n\nGenerated from the table in `actors/worker/machine.go` by `make generate`; a test fails when it is stale.\n\n```mermaid\n")
		mermaid(&b)
		b.WriteString("```\n\n| state | meaning |\n|---|---|\n")
		for _, s := range messages.States() {
			fmt.Fprintf(&b, "| `%s` | %s |\n", s, stateText[s])
		}
		b.WriteString("\nThe first row that fits wins; a pair that is not here is refused, counted, and changes nothing.\n\n| from | event | if | to |\n|---|---|---|---|\n")
		for _, r := range worker.Table {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.From, r.On, guard(r), r.To)
		}
		return b.Bytes(), nil
	}
	return nil, fmt.Errorf("the state table comes as json, text, mermaid or markdown, not as %q", format)
}

func guard(r worker.Row) string {
	if r.If == nil {
		return ""
	}
	return r.If.Name
}

// mermaid draws each pair of states once, with all events that lead from one to
// the other; rows that stay in their state are left out.
func mermaid(b *bytes.Buffer) {
	type pair struct{ from, to messages.State }
	var order []pair
	label := map[pair]string{}
	for _, r := range worker.Table {
		p := pair{r.From, r.To}
		if r.From == r.To {
			continue
		}
		if _, ok := label[p]; !ok {
			order = append(order, p)
			label[p] = string(r.On)
		} else if !bytes.Contains([]byte(label[p]), []byte(r.On)) {
			label[p] += ", " + string(r.On)
		}
	}
	b.WriteString("stateDiagram-v2\n    [*] --> pending\n")
	for _, p := range order {
		fmt.Fprintf(b, "    %s --> %s: %s\n", p.from, p.to, label[p])
	}
}
