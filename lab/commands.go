package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/eidolon-lisp/eidolon/lab/internal/clab"
	"github.com/eidolon-lisp/eidolon/lab/internal/demo"
	"github.com/eidolon-lisp/eidolon/lab/internal/graph"
	"github.com/eidolon-lisp/eidolon/lab/internal/runner"
	"github.com/eidolon-lisp/eidolon/lab/internal/scenario"
)

// quickstart is the topology that is meant when none is named.
const quickstart = "lab/quickstart.clab.yml"

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Play containerlab topologies in network namespaces",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(demoCommand(), scenarioCommand(), upCommand(), execCommand(), downCommand(), graphCommand(), logsCommand(), psCommand())
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// patience is how long `lab up` waits for the xTRs to register, so that the
// first packet sent by hand does not come before its mapping.
const patience = 5 * time.Second

// inSource finds a file of this module, named from its root, also when the
// working directory is elsewhere.
func inSource(ctx context.Context, path string) (string, error) {
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	root, err := runner.ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(root, path), nil
}

// loadTopology loads the topology file of the arguments, or the quickstart.
func loadTopology(ctx context.Context, args []string) (*clab.Topology, error) {
	if len(args) > 0 {
		return clab.Load(args[0])
	}
	path, err := inSource(ctx, quickstart)
	if err != nil {
		return nil, fmt.Errorf("no topology file was given, and %w", err)
	}
	return clab.Load(path)
}

// pick finds the lab that is meant: by its name, or the only one that is up.
func pick(name string) (*runner.Lab, error) {
	if name != "" {
		return runner.Open(name)
	}
	labs, _, err := runner.List()
	if err != nil {
		return nil, err
	}
	switch len(labs) {
	case 0:
		return nil, errors.New("no lab is up; bring one up first: lab up FILE.clab.yml")
	case 1:
		return labs[0], nil
	}
	return nil, fmt.Errorf("several labs are up: %s; say which one with --name", strings.Join(labNames(labs), ", "))
}

func labNames(labs []*runner.Lab) []string {
	names := make([]string, len(labs))
	for i, l := range labs {
		names[i] = l.Name
	}
	return names
}

func demoCommand() *cobra.Command {
	var pcap string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show two sites talking, and check it",
		Long: `Build everything, bring the quickstart topology up, show each step as it
happens, check what must hold, and take it down again. Ends with status 1 if
anything failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			top, err := loadTopology(cmd.Context(), nil)
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), top, demo.Options{Out: cmd.OutOrStdout(), Capture: pcap})
		},
	}
	cmd.Flags().StringVar(&pcap, "pcap", "", "keep the frames captured in the core in this file")
	return cmd
}

func scenarioCommand() *cobra.Command {
	var slack float64
	var containers bool
	cmd := &cobra.Command{
		Use:   "scenario [NAME|FILE.scenario]...",
		Short: "Play what happens to a topology, and check what comes of it",
		Long: `Build everything, bring a topology up, go through the steps of a script, print
what was measured, and take it down again. A name is that of a script in lab/;
without one all of them are played. Ends with status 1 if anything failed.

With --containerlab the topology is deployed by containerlab, on Docker, and
destroyed afterwards. Both must be in the PATH, and the image eidolon/lab there:
docker build -f deploy/Dockerfile --target lab -t eidolon/lab .`,
		Example: `  lab scenario multihoming
  lab scenario --containerlab multihoming`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if slack < 1 || slack > 100 {
				return errors.New("--slack wants a number from 1 to 100")
			}
			scripts, err := loadScripts(cmd.Context(), args)
			if err != nil {
				return err
			}
			var errs []error
			for _, s := range scripts {
				errs = append(errs, scenario.Run(cmd.Context(), s, scenario.Options{Out: cmd.OutOrStdout(), Slack: slack, Containers: containers}))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&containers, "containerlab", false, "have containerlab deploy the topology, on Docker")
	cmd.Flags().Float64Var(&slack, "slack", 1, "allow so many times the time that the script allows, on a slow or busy machine")
	return cmd
}

// loadScripts loads the scripts that are named, or all.
func loadScripts(ctx context.Context, args []string) ([]*scenario.Script, error) {
	if len(args) == 0 {
		dir, err := inSource(ctx, "lab")
		if err != nil {
			return nil, err
		}
		if args, err = filepath.Glob(filepath.Join(dir, "*"+scenario.Ending)); err != nil {
			return nil, err
		}
	}
	var scripts []*scenario.Script
	for _, path := range args {
		if !strings.HasSuffix(path, scenario.Ending) {
			var err error
			if path, err = inSource(ctx, filepath.Join("lab", path+scenario.Ending)); err != nil {
				return nil, err
			}
		}
		s, err := scenario.Load(path)
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, s)
	}
	return scripts, nil
}

func upCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "up [FILE.clab.yml]",
		Short: "Bring a topology up; it stays up until `lab down`",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			top, err := loadTopology(cmd.Context(), args)
			if err != nil {
				return err
			}
			return up(cmd.Context(), cmd.OutOrStdout(), top, name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the lab (default: that of the topology)")
	return cmd
}

func up(ctx context.Context, w io.Writer, top *clab.Topology, name string) error {
	start := time.Now()
	sayAt := func(at time.Time, line string) { fmt.Fprintf(w, "[%6.2fs] %s\n", at.Sub(start).Seconds(), line) }
	say := func(format string, args ...any) { sayAt(time.Now(), fmt.Sprintf(format, args...)) }
	say("%s: %d nodes, %d links", top.File, len(top.Nodes), len(top.Links))
	if err := runner.Preflight(top); err != nil { // before time goes into building
		return err
	}
	binaries, err := runner.Build(ctx, top, say)
	if err != nil {
		return err
	}
	lab, err := runner.Up(ctx, top, runner.Options{Name: name, Say: say, Binaries: binaries})
	if err != nil {
		return err
	}
	for _, node := range demo.AwaitRegistrations(ctx, lab, patience, sayAt) {
		say("node %s has not registered yet; lab logs %s may tell why", node, node)
	}
	say("lab %s is up", lab.Name)
	var dead []string
	for _, n := range top.Nodes {
		st, err := lab.Status(n.Name)
		if err != nil {
			return err
		}
		if len(st.Command) > 0 && !st.Running {
			dead = append(dead, n.Name)
			fmt.Fprintf(w, "node %s: %s %s\n%s", n.Name, strings.Join(st.Command, " "), st, tail(lab.LogPath(n.Name), 10))
		}
	}
	nodes := top.NodeNames()
	fmt.Fprintf(w, `
go on with
  go run ./lab exec %[1]s sh             a shell in a node; Ctrl-D leaves it
  go run ./lab exec %[1]s ping %[2]s
  go run ./lab logs %[2]s
  go run ./lab ps
  go run ./lab down
state and logs are in %[3]s
`, nodes[0], nodes[len(nodes)-1], lab.Dir)
	if len(dead) > 0 {
		return fmt.Errorf("the lab is up, but the commands of these nodes have ended: %s", strings.Join(dead, ", "))
	}
	return nil
}

// tail returns the last lines of a file, indented.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "    " + strings.Join(lines, "\n    ") + "\n"
}

func execCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "exec NODE COMMAND [ARGUMENT...]",
		Short: "Execute a command in a node",
		Long: `Execute a command in a node, on the terminal or the streams of this one. The
exit status is the command's. Nodes have the programs of this machine, xtr,
mapserver and lispctl, bgprouter, and ip, ping, ttcp, capture and sysctl even
where the machine has none.`,
		Example: `  lab exec host-a ping -c 3 10.2.0.10
  lab exec xtr-a lispctl show map-cache
  lab exec core capture -w - -t 10 > core.pcap`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			lab, err := pick(name)
			if err != nil {
				return err
			}
			status, err := lab.Exec(args[0], args[1:])
			if err != nil {
				return err
			}
			if status != 0 {
				return statusError(status)
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&name, "name", "", "name of the lab, if several are up")
	return cmd
}

func downCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down [NAME|FILE.clab.yml]",
		Short: "Take a lab down and remove its state",
		Long: `Take a lab down: the one that is named, or the only one that is up. What a lab
that died has left is removed too. It is no error if there is nothing to do.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return down(cmd.OutOrStdout(), args, all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "take all labs of this user down")
	return cmd
}

func down(w io.Writer, args []string, all bool) error {
	labs, stale, err := runner.List()
	if err != nil {
		return err
	}
	if len(args) > 0 {
		name := args[0]
		if strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml") {
			top, err := clab.Load(name)
			if err != nil {
				return err
			}
			name = top.Name
		}
		labs = slices.DeleteFunc(labs, func(l *runner.Lab) bool { return l.Name != name })
		stale = slices.DeleteFunc(stale, func(s string) bool { return s != name })
	} else if len(labs) > 1 && !all {
		return fmt.Errorf("several labs are up: %s; name one, or use --all", strings.Join(labNames(labs), ", "))
	}
	for _, name := range stale {
		if err := runner.RemoveStale(name); err != nil {
			return err
		}
		fmt.Fprintf(w, "removed what lab %s had left when it died\n", name)
	}
	for _, l := range labs {
		if err := l.Down(); err != nil {
			return err
		}
		fmt.Fprintf(w, "lab %s is down\n", l.Name)
	}
	if len(labs)+len(stale) == 0 {
		fmt.Fprintln(w, "nothing to take down")
	}
	return nil
}

func graphCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "graph [FILE.clab.yml]",
		Short: "Draw a topology",
		Example: `  lab graph lab/quickstart.clab.yml
  lab graph -o svg lab/quickstart.clab.yml > quickstart.svg`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			top, err := loadTopology(cmd.Context(), args)
			if err != nil {
				return err
			}
			return graph.Draw(cmd.OutOrStdout(), top, format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "text", "format: "+strings.Join(graph.Formats, ", "))
	return cmd
}

func logsCommand() *cobra.Command {
	var name string
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs NODE",
		Short: "Print what the command of a node has said",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, err := pick(name)
			if err != nil {
				return err
			}
			if _, err := lab.Status(args[0]); err != nil {
				return err
			}
			return copyLog(cmd.Context(), cmd.OutOrStdout(), lab.LogPath(args[0]), follow)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the lab, if several are up")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it says")
	return cmd
}

func copyLog(ctx context.Context, w io.Writer, path string, follow bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := os.Stat(path); err != nil {
			return nil // the lab went down
		}
	}
}

func psCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ps",
		Short: "List the labs that are up, and their nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			labs, stale, err := runner.List()
			if err != nil {
				return err
			}
			if len(labs)+len(stale) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "no lab is up")
				return nil
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(t, "LAB\tNODE\tSTATE\tCOMMAND")
			for _, l := range labs {
				for _, n := range l.Topology.Nodes {
					state := ""
					st, err := l.Status(n.Name)
					if err != nil {
						state = err.Error()
					} else if state = st.String(); st.Running {
						state += fmt.Sprintf(" for %s", st.Ran.Round(time.Second))
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", l.Name, n.Name, state, strings.Join(st.Command, " "))
				}
			}
			for _, name := range stale {
				fmt.Fprintf(t, "%s\t\tdied; lab down removes what it left\t\n", name)
			}
			return t.Flush()
		},
	}
}
