package specs

import (
	"io/fs"
	"syscall"
)

// allocated is what a file takes on the disk, in bytes: punched holes are free.
// st_blocks counts units of 512. Source: stat(3type)
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
