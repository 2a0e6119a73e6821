package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/rbee-hive/hive/messages"
)

// filteredJSON keeps of a worker list what the filter lets through, each worker
// as hive wrote it.
func filteredJSON(raw []byte, f psFlags) (string, error) {
	var list struct {
		Workers []json.RawMessage `json:"workers"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", fmt.Errorf("hive's list of workers is no JSON: %w", err)
	}
	kept := make([]json.RawMessage, 0, len(list.Workers))
	for _, one := range list.Workers {
		var w messages.WorkerStatus
		if err := json.Unmarshal(one, &w); err != nil {
			return "", fmt.Errorf("a worker in hive's list cannot be read: %w", err)
		}
		if f.match(w) {
			kept = append(kept, one)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(map[string]any{"workers": kept})
	return b.String(), err
}
