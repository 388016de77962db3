package clab

import (
	"errors"
	"strings"
)

// Words splits a command line into words as a POSIX shell does, without
// expansion: blanks separate, single and double quotes and the backslash
// quote, # at the start of a word begins a comment. containerlab splits cmd
// and exec lines in the same manner and runs no shell on them.
func Words(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\\':
			i++
			if i == len(line) {
				return nil, errors.New("a backslash at the end quotes nothing")
			}
			if quote == '"' && !strings.ContainsRune(`"\$`+"`", rune(line[i])) {
				word.WriteByte('\\')
			}
			word.WriteByte(line[i])
			inWord = true
		case quote == '"':
			if c == '"' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case c == '#' && !inWord:
			end := strings.IndexByte(line[i:], '\n')
			if end < 0 {
				i = len(line)
			} else {
				i += end
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed: " + string(quote))
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
