//go:build !cgo || !linux

package gpu

import (
	"errors"
	"testing"
)

func TestABuildWithoutCgoSaysSo(t *testing.T) {
	if _, err := Open(""); !errors.Is(err, ErrNoDriver) {
		t.Errorf("got %v", err)
	}
}
