// Package worker is for authors of engines: it tells hive, from inside a worker
// process, that the worker is ready, that it lives and what it is doing, and
// tells the engine what hive wants of it. It needs the standard library alone.
//
// Everything is found in the environment that hive starts a worker with. Without
// hive every call does nothing and returns nil, so that an engine runs alone too.
//
// There are two ways to speak. HTTP callbacks (HIVE_URL, HIVE_WORKER,
// HIVE_ATTEMPT, HIVE_TOKEN) are used where they are possible. The datagrams of
// sd_notify(3) (NOTIFY_SOCKET) are used otherwise, or first with [PreferNotify]:
// they cost less, and carry nothing back. So a worker that only notifies does
// not see that hive wants it to drain, and gets SIGTERM when the time for that is
// over; of its [Stats], hive sees InFlight alone.
package worker
