// Package config reads the YAML files of xtr and mapserver.
//
// A file is read whole and checked whole: LoadXTR and LoadMapServer return
// either a configuration in which every value has been parsed and every
// reference holds, or Errors with the line and column of everything that is
// wrong. A key that is not known is an error. Nothing else is touched, so that
// a daemon that reloads keeps what it has until the new file is good.
//
// What a reader asks for can be watched (form). That makes the JSON schemas in
// deploy and the tables of keys in docs/configuration.md, whose words and whose
// column "change" are written by hand:
//
//	go test ./internal/config -run 'Page|Schemas' -update
//
// Anchors and aliases may be used; tags and merge keys ("<<") may not.
package config
