// Command fakeworker stands in for a model server in the specs and the demo. It
// is a real process with an HTTP server, a load time, and on request every bad
// habit that engines have: crashes, hangs, lies, leaks, forks, ports that stay
// open and signals that are ignored.
//
// It is told everything by flags (see --help) and by the worker contract's
// environment: HOST, PORT, HIVE_WORKER, HIVE_ATTEMPT, HIVE_URL, HIVE_TOKEN and
// NOTIFY_SOCKET. It speaks to hive through package worker. Without flags it is a
// good worker: it listens, is healthy at once and exits 0 on SIGTERM.
package main
