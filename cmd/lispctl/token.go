package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// maxToken is the longest token that daemons take, in octets.
const maxToken = 512

func newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token FILE",
		Short: "Make a token for a user of the API, and print its hash",
		Long: `token writes a new random token to FILE, which only its owner can read, and prints
the SHA-256 of it. The hash goes to token_hashes of a user in the configuration of
a daemon, the file stays with who uses it (--token-file). FILE must not exist.`,
		Example: `  lispctl token ~/.eidolon.token
  lispctl token --existing fabric.token`,
		Args: arguments(1, 1),
	}
	existing := cmd.Flags().Bool("existing", false, "print the hash of the token in FILE")
	out := formatFlag(cmd, formatTable)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		token, err := "", error(nil)
		if *existing {
			token, err = readToken(args[0])
		} else {
			token, err = makeToken(args[0])
		}
		if err != nil {
			return err
		}
		hash := fmt.Sprintf("%x", sha256.Sum256([]byte(token)))
		return out.output(cmd).done(tokenJSON{args[0], hash}, "%s", hash)
	}
	return cmd
}

// tokenJSON is a token for programs: where it is, and what the configuration of a
// daemon has of it.
type tokenJSON struct {
	File string `json:"file"`
	Hash string `json:"token_hash"`
}

// makeToken writes a new token of 256 bits to a file of its own.
func makeToken(path string) (string, error) {
	random := make([]byte, 32)
	rand.Read(random) // never fails
	token := base64.RawURLEncoding.EncodeToString(random)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return token, nil
}

// readToken reads a token from a file that others can't read.
func readToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case mode.Perm()&0o007 != 0:
		return "", fmt.Errorf("everybody can read or write %s (mode %04o), expected 0640 or less", path, mode.Perm())
	case info.Size() > maxToken+2:
		return "", fmt.Errorf("%s is too large for a token", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimRight(string(text), "\r\n")
	if token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s does not hold a token: one line of ASCII characters without spaces, %d at most", path, maxToken)
	}
	return token, nil
}
