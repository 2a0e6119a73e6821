package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Binaries are the paths of the programs under test.
type Binaries struct {
	Hive string `json:"hive"`
	Fake string `json:"fake"`
}

// Build compiles hive, under the race detector unless RACE=0, and fakeworker into
// dir. With HIVE_BIN set to a folder that holds both, they are taken from there.
func Build(dir string) (Binaries, error) {
	if ready := os.Getenv("HIVE_BIN"); ready != "" {
		abs, err := filepath.Abs(ready)
		return binaries(abs), err
	}
	args := []string{"build", "-o", dir}
	if os.Getenv("RACE") != "0" {
		args = append(args, "-race")
	}
	if err := goBuild(nil, append(args, "github.com/rbee-hive/hive/cmd/hive")...); err != nil {
		return Binaries{}, err
	}
	err := goBuild([]string{"CGO_ENABLED=0"}, "build", "-o", dir, "github.com/rbee-hive/hive/cmd/fakeworker")
	return binaries(dir), err
}

func binaries(dir string) Binaries {
	return Binaries{Hive: filepath.Join(dir, "hive"), Fake: filepath.Join(dir, "fakeworker")}
}

func goBuild(env []string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return nil
}
