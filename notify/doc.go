// Package notify is the receiving side of sd_notify(3): one datagram socket per
// worker, on which the worker says that it is ready, that it lives, how far it
// has loaded and how much it has to do.
//
// Each datagram comes with the process id that the kernel vouches for
// (SO_PASSCRED). Whether that process belongs to the worker is for the caller to
// judge, within handle: a sender that waits for the barrier of
// sd_notify_barrier(3) is alive until handle returns. Only a process with
// CAP_SYS_ADMIN may put another process's id in its credentials.
package notify
