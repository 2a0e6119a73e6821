//go:build !cgo || !linux

package gpu

// Open says that this build of hive cannot ask a GPU driver.
func Open(string, ...Option) (Driver, error) {
	return nil, noDriver("this build of hive cannot ask for GPUs, since it was made without cgo (or not for Linux)")
}
