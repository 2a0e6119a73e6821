package config

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// maxSocketPath leaves room under the 108 bytes of sun_path.
// Source: unix(7).
const maxSocketPath = 100

// SocketPath is where the API's socket of a data directory lies, the same for
// the daemon and for the command line: data_dir/hive.sock, or, where that is
// too long to bind, a name made from the data directory in $XDG_RUNTIME_DIR,
// /run/hive or /tmp/hive-UID. The last two are created (0700) if needed; one
// that another user could write to is passed over. With no usable place the
// long path is returned, and binding it will fail and say so.
func SocketPath(dataDir string) string {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		abs = filepath.Clean(dataDir)
	}
	plain := filepath.Join(abs, "hive.sock")
	if len(plain) <= maxSocketPath {
		return plain
	}
	sum := sha256.Sum256([]byte(abs))
	name := "hive-" + hex.EncodeToString(sum[:8]) + ".sock"
	uid := os.Geteuid()
	dirs := []string{os.Getenv("XDG_RUNTIME_DIR")}
	if uid == 0 {
		dirs = append(dirs, "/run/hive")
	}
	own := "hive-" + strconv.Itoa(uid)
	dirs = append(dirs, filepath.Join(os.TempDir(), own), filepath.Join("/tmp", own))
	usable := ""
	for i, dir := range dirs {
		path := filepath.Join(dir, name)
		if !filepath.IsAbs(dir) || len(path) > maxSocketPath {
			continue
		}
		if i > 0 {
			_ = os.Mkdir(dir, 0o700) // what matters is checked next
		}
		if !private(dir, uid) {
			continue
		}
		if _, err := os.Lstat(path); err == nil {
			return path
		}
		if usable == "" {
			usable = path
		}
	}
	if usable == "" {
		return plain
	}
	return usable
}

// private reports whether dir is a directory that only uid can write to.
func private(dir string, uid int) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}
