package hive

//go:generate sh -c "go run ./cmd/hive states -o markdown > docs/worker-states.md"
