#!/bin/bash
# A worker in shell: ready, then a heartbeat every 2 seconds, over NOTIFY_SOCKET. Bash cannot send datagrams, so one perl
# does (every Debian has it): a line is a datagram. It stays, since hive looks whether the sender is of the worker's processes.
exec 3>/dev/null
[ -z "$NOTIFY_SOCKET" ] || exec 3> >(exec perl -MSocket -ne 'BEGIN { $SIG{TERM} = $SIG{INT} = "IGNORE"; socket($s, AF_UNIX, SOCK_DGRAM, 0) }
	chomp; send($s, $_, 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) // warn "notify: $!\n"')
trap 'echo STOPPING=1 >&3; exit 0' TERM INT

echo X_HIVE_PROGRESS=0.5 >&3
sleep 1 3>&- # load the model here
echo READY=1 >&3
while echo WATCHDOG=1 >&3 && echo X_HIVE_IN_FLIGHT=0 >&3; do
	sleep 2 3>&- >/dev/null 2>&1 & wait $! # so that a signal is heard at once
done
