package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
)

// Limits of completion: somebody has pressed a key and waits.
const (
	completionTime = 500 * time.Millisecond
	maxCompletions = 200
)

func newCompletion() *cobra.Command {
	shells := map[string]func(*cobra.Command, io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":  func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	}
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Write the script that completes commands in a shell",
		Long: `completion writes a script for a shell. It completes commands and flags, and asks the
daemons of this host, or the one that the flags and the environment name, for
EIDs, sites, locators and counters; one that does not answer within half a second
is left out.`,
		Example: `  lispctl completion bash > /etc/bash_completion.d/lispctl   (needs the package bash-completion)
  lispctl completion zsh > "${fpath[1]}/_lispctl"
  lispctl completion fish > ~/.config/fish/completions/lispctl.fish`,
		Args:      arguments(1, 1),
		ValidArgs: []string{"bash", "zsh", "fish"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		write := shells[args[0]]
		if write == nil {
			return fmt.Errorf("found %q, expected bash, zsh or fish", args[0])
		}
		return write(cmd.Root(), cmd.OutOrStdout())
	}
	return cmd
}

// candidate is something live that an argument may be.
type candidate func(ctx context.Context, c *client, offer func(value, about string) bool) error

// completes has the first n arguments of a command completed with what the daemons
// of programs know, with n < 0 all of them; a nil candidate offers nothing.
func completes(cmd *cobra.Command, n int, of candidate, programs ...string) *cobra.Command {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if of == nil || n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return candidates(cmd, args, begun, of, programs), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// candidates asks the daemon that --socket or --address names, or those on the
// usual sockets, for what begins as begun and is not among the arguments yet.
func candidates(cmd *cobra.Command, args []string, begun string, of candidate, programs []string) (list []cobra.Completion) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	var clients []*client
	if t, err := targetOf(cmd).complete(); err != nil {
		return nil
	} else if t != (target{}) {
		if c, err := dial(ctx, t, programs...); err == nil {
			clients = append(clients, c)
		}
	} else {
		for _, p := range programs {
			if c, err := dialOne(ctx, defaultSocket(p), programs); err == nil {
				clients = append(clients, c)
			}
		}
	}
	seen := make(map[string]bool)
	for _, a := range args {
		seen[a] = true
	}
	for _, c := range clients {
		// What came before an error or the end of the time is as good.
		_ = of(ctx, c, func(value, about string) bool {
			if strings.HasPrefix(value, begun) && !seen[value] {
				seen[value] = true
				list = append(list, cobra.CompletionWithDesc(value, about))
			}
			return len(list) < maxCompletions
		})
		c.close()
	}
	return list
}

// liveEIDs offers the EID-prefixes of a daemon: those of an xTR and of its
// map-cache, or the mappings of a map-server.
func liveEIDs(ctx context.Context, c *client, offer func(value, about string) bool) error {
	if c.program == programMapServer {
		return listMappings(ctx, eidolonv1.NewMappingServiceClient(c.conn), &eidolonv1.ListMappingsRequest{}, func(m *eidolonv1.Mapping) error {
			about := originText(m.GetOrigin())
			if m.GetSite() != "" {
				about += ", " + m.GetSite()
			}
			return goOn(offer(m.GetRecord().GetEid(), about))
		})
	}
	if err := databaseMappings(ctx, c, "", func(d *eidolonv1.DatabaseMapping) error {
		return goOn(offer(d.GetRecord().GetEid(), "of this site"))
	}); err != nil {
		return err
	}
	return cachedEIDs(ctx, c, offer)
}

// cachedEIDs offers those of the map-cache.
func cachedEIDs(ctx context.Context, c *client, offer func(value, about string) bool) error {
	stream, err := eidolonv1.NewRouterServiceClient(c.conn).ListMapCache(ctx, &eidolonv1.ListMapCacheRequest{})
	if err != nil {
		return err
	}
	return received(stream.Recv, func(resp *eidolonv1.ListMapCacheResponse) error {
		for _, e := range resp.GetEntries() {
			if err := goOn(offer(e.GetRecord().GetEid(), locatorsText(e.GetRecord()))); err != nil {
				return err
			}
		}
		return nil
	})
}

// putEIDs offers those that mapping put has put.
func putEIDs(ctx context.Context, c *client, offer func(value, about string) bool) error {
	return listMappings(ctx, eidolonv1.NewMappingServiceClient(c.conn), &eidolonv1.ListMappingsRequest{}, func(m *eidolonv1.Mapping) error {
		if m.GetPutRevision() == 0 {
			return nil
		}
		return goOn(offer(m.GetRecord().GetEid(), locatorsText(m.GetRecord())))
	})
}

func liveSites(ctx context.Context, c *client, offer func(value, about string) bool) error {
	list, err := allSites(ctx, eidolonv1.NewSiteServiceClient(c.conn), &eidolonv1.ListSitesRequest{})
	if err != nil {
		return err
	}
	for _, s := range list {
		if !offer(s.GetName(), fmt.Sprintf("%d EID-prefixes, %d registrations", len(s.GetPrefixes()), s.GetRegistrations())) {
			break
		}
	}
	return nil
}

// liveSitesAndEIDs offers sites, and where they do not fit EIDs.
func liveSitesAndEIDs(ctx context.Context, c *client, offer func(value, about string) bool) error {
	if err := liveSites(ctx, c, offer); err != nil {
		return err
	}
	return liveEIDs(ctx, c, offer)
}

// liveLocators offers the local locators of an xTR and their interfaces.
func liveLocators(ctx context.Context, c *client, offer func(value, about string) bool) error {
	resp, err := eidolonv1.NewRouterServiceClient(c.conn).ListLocalLocators(ctx, &eidolonv1.ListLocalLocatorsRequest{})
	if err != nil {
		return err
	}
	var interfaces []string
	for _, l := range resp.GetLocalLocators() {
		offer(l.GetAddress(), strings.TrimSuffix(l.GetInterface()+", "+localStateText(time.Now(), l)+", "+operatorText(l), ", "))
		if i := l.GetInterface(); i != "" && !slices.Contains(interfaces, i) {
			interfaces = append(interfaces, i)
		}
	}
	for _, i := range interfaces {
		offer(i, "all locators of the interface")
	}
	return nil
}

func liveLocatorSets(ctx context.Context, c *client, offer func(value, about string) bool) error {
	return locatorSets(ctx, c, "", func(s *eidolonv1.LocatorSet) error {
		return goOn(offer(s.GetName(), fmt.Sprintf("%d locators, %d EID-prefixes", len(s.GetLocators()), s.GetDatabaseMappingCount())))
	})
}

func liveStatistics(ctx context.Context, c *client, offer func(value, about string) bool) error {
	resp, err := eidolonv1.NewAdminServiceClient(c.conn).GetStatistics(ctx, &eidolonv1.GetStatisticsRequest{})
	if err != nil {
		return err
	}
	for _, s := range resp.GetStatistics() {
		offer(s.GetName(), fmt.Sprint(s.GetValue()))
	}
	return nil
}

// goOn is the error that ends a stream when no more candidates are wanted.
func goOn(more bool) error {
	if !more {
		return errEnough
	}
	return nil
}

// completeWords has a flag completed with fixed words.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	// It fails for a flag that the command does not have, which a test of all
	// commands would show.
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}
