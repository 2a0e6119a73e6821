// Package cgroup bounds and accounts what one attempt of a worker uses, by
// cgroup v2, by v1, or not at all where the host gives neither.
//
// Every attempt has a group of its own, made before its process starts and
// removed after its end, since the kernel counts per group: what a counter says
// is about this attempt and no other. The groups lie in hive's own folder, which
// lies in the cgroup hive was started in, so that no bound set around hive is
// ever left.
//
// With v2 the process is cloned into the group (Group.Dir2). The kernel lets a
// group other than the root hold either processes or groups with controllers.
// Where hive's own cgroup stands in the way, Open moves hive into a folder below
// it, but only when hive is alone there and may write it: under systemd that is a
// service with Delegate=yes. Close puts everything back. A hive that was killed
// leaves its workers in their folders, and systemd then refuses to start the
// service again in a cgroup that has become a parent; DelegateSubgroup=hive
// (systemd 254) avoids that, and Open recognises it.
// Source: cgroup v2 guide, "No Internal Process Constraint"; systemd's
// CGROUP_DELEGATION page.
//
// With v1 no process can be cloned into a group, but a child is born where the
// thread that forks it is, so that thread visits the group: see Group.Enter.
package cgroup
