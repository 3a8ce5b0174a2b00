//go:build linux

// Command bench measures the server against the limits of the machine it runs on, both in the same run,
// and prints their ratios. README.md says what each row means and how to read it.
//
//	go run ./bench
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	run      *regexp.Regexp
	duration time.Duration
	count    int
	cpus     int
	json     bool
	list     bool
	binary   string
	dir      string
}

// The names of the two processes that this program starts of itself.
const (
	envGenerator = "RUNNEL_BENCH_GENERATOR" // set in the one that makes the load, which is pinned
	envPeer      = "RUNNEL_BENCH_PEER"      // set in those that stand in for a limit; says which one
)

func main() {
	if peer := os.Getenv(envPeer); peer != "" {
		exit(runPeer(peer, os.Args[1:]))
	}
	var opts options
	run := flag.String("run", ".", "measure the rows whose names match this `regexp`")
	flag.DurationVar(&opts.duration, "duration", 3*time.Second, "measure each row for this long")
	flag.IntVar(&opts.count, "count", 1, "measure each row so often, and print medians")
	flag.IntVar(&opts.cpus, "cpus", 1, "give the server this many cores: 1 leaves the other to the load generator, 2 shares both")
	flag.BoolVar(&opts.json, "json", false, "print JSON instead of a table")
	flag.BoolVar(&opts.list, "list", false, "print the names of the rows")
	flag.StringVar(&opts.binary, "binary", "", "measure this program instead of building ./cmd/runnel")
	flag.StringVar(&opts.dir, "dir", "", "keep data below this directory, on the disk to be measured (default: the current one)")
	flag.Parse()
	var err error
	if opts.run, err = regexp.Compile(*run); err != nil || opts.count < 1 || opts.cpus < 1 || opts.duration <= 0 {
		fmt.Fprintln(os.Stderr, "bench: -run must be a regular expression, -count and -cpus at least 1, -duration more than 0")
		os.Exit(2)
	}
	exit(bench(opts))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func bench(opts options) (err error) {
	if opts.list {
		for _, s := range scenarios {
			for _, name := range s.rows {
				if _, err := fmt.Fprintln(os.Stdout, name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if os.Getenv(envGenerator) == "" {
		return startGenerator(opts)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp(opts.dir, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m := &machine{opts: opts, dir: dir, limits: map[string]float64{}}
	defer m.stopAll()

	began, others := time.Now(), beginOthers()
	var results []result
	for _, s := range scenarios {
		if !slices.ContainsFunc(s.rows, opts.run.MatchString) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%5.1fs  %s\n", time.Since(began).Seconds(), strings.Join(s.rows, ", "))
		for range opts.count {
			clear(m.limits)
			rows, err := s.measure(ctx, m)
			m.stopAll()
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(s.rows, ", "), err)
			}
			for _, r := range rows {
				if opts.run.MatchString(r.Name) {
					results = append(results, r)
				}
			}
		}
	}
	if err := report(os.Stdout, opts, median(results), time.Since(began)); err != nil {
		return err
	}
	if used := others.end(); used > 0.1 {
		fmt.Fprintf(os.Stderr, "bench: other processes used %.1f cores meanwhile; measure again when the machine is quiet\n", used)
	}
	return nil
}

// startGenerator builds the server and runs this program again, on the core that the server does not have.
func startGenerator(opts options) (err error) {
	build, err := os.MkdirTemp("", "runnel-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(build)) }()
	args := slices.Clone(os.Args[1:])
	if opts.binary == "" {
		binary := filepath.Join(build, "runnel")
		cmd := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/runnelhq/runnel/cmd/runnel")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go build ./cmd/runnel: %w", err)
		}
		args = append([]string{"-binary", binary}, args...)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// An interrupt is passed on, so that the generator ends what it started.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name := self
	if runtime.NumCPU() > 1 {
		name, args = "taskset", append([]string{"-c", generatorCPUs(opts), self}, args...)
	} else {
		fmt.Fprintln(os.Stderr, "bench: there is one core only, which the server and the load generator share; ratios say little")
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), envGenerator+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func generatorCPUs(opts options) string {
	if opts.cpus > 1 {
		return "0-" + fmt.Sprint(opts.cpus-1)
	}
	return "1"
}

// result is one row of the table.
type result struct {
	Name string `json:"name"`
	// Value and Limit are in Unit; the limit is what the machine does without the server's work.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Limit float64 `json:"limit,omitempty"`
	// LimitName says what the limit is.
	LimitName string `json:"limit_name,omitempty"`
	// Target is what Value/Limit must reach, or stay under if Less; 0 if the row is only for information.
	Target float64 `json:"target,omitempty"`
	Less   bool    `json:"less,omitempty"`
	// GeneratorCPU and LimitCPU are how many cores the load generator used for the value and for the limit.
	GeneratorCPU float64 `json:"generator_cpu,omitempty"`
	LimitCPU     float64 `json:"limit_cpu,omitempty"`
	Note         string  `json:"note,omitempty"`
}

func (r result) ratio() float64 {
	if r.Limit == 0 {
		return 0
	}
	return r.Value / r.Limit
}

func (r result) verdict() string {
	switch ratio := r.ratio(); {
	case r.Target == 0:
		return ""
	case r.Less && ratio <= r.Target, !r.Less && ratio >= r.Target:
		return "pass"
	}
	return "**miss**"
}

// median keeps, of the results of one name, the one whose ratio is in the middle.
func median(all []result) []result {
	var out []result
	byName := map[string][]result{}
	var names []string
	for _, r := range all {
		if byName[r.Name] == nil {
			names = append(names, r.Name)
		}
		byName[r.Name] = append(byName[r.Name], r)
	}
	for _, name := range names {
		same := byName[name]
		slices.SortFunc(same, func(a, b result) int {
			if a.Limit == 0 {
				return int(sign(a.Value - b.Value))
			}
			return int(sign(a.ratio() - b.ratio()))
		})
		out = append(out, same[(len(same)-1)/2])
	}
	return out
}

func sign(x float64) float64 {
	switch {
	case x < 0:
		return -1
	case x > 0:
		return 1
	}
	return 0
}

// saturated is the use of its core above which the load generator, and not the server, may be what a row
// measures.
const saturated = 0.9

func report(w io.Writer, opts options, results []result, took time.Duration) error {
	if opts.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(results)
	}
	var table strings.Builder
	fmt.Fprintln(&table, "| row | value | limit | ratio | target | | generator | notes |")
	fmt.Fprintln(&table, "|---|--:|--:|--:|--:|---|--:|---|")
	missed, measured := 0, 0
	for _, r := range results {
		limit, ratio, target, cpu := "", "", "", ""
		if r.Limit != 0 {
			limit = number(r.Limit) + " " + r.Unit + " (" + r.LimitName + ")"
			ratio = fmt.Sprintf("%.2f", r.ratio())
		}
		if r.Target != 0 {
			measured++
			target = "≥ " + fmt.Sprintf("%.2f", r.Target)
			if r.Less {
				target = "≤ " + fmt.Sprintf("%.2f", r.Target)
			}
			if r.verdict() != "pass" {
				missed++
			}
		}
		if r.GeneratorCPU != 0 {
			cpu = fmt.Sprintf("%.2f", r.GeneratorCPU)
			if r.LimitCPU != 0 {
				cpu += fmt.Sprintf(" / %.2f", r.LimitCPU)
			}
			if max(r.GeneratorCPU, r.LimitCPU) > saturated {
				cpu += " **busy**"
			}
		}
		fmt.Fprintf(&table, "| %s | %s %s | %s | %s | %s | %s | %s | %s |\n",
			r.Name, number(r.Value), r.Unit, limit, ratio, target, r.verdict(), cpu, r.Note)
	}
	fmt.Fprintf(&table, "\n%d of %d targets reached, in %s, %s for a row, %d time(s).\n",
		measured-missed, measured, took.Round(time.Second), opts.duration, opts.count)
	_, err := io.WriteString(w, table.String())
	return err
}

// number writes x with three digits that count, or more before the point.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
