package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

type leaseCmd struct {
	Acquire leaseAcquireCmd `cmd:"" help:"Claim a key for a time, and print the fencing number."`
	Run     leaseRunCmd     `cmd:"" help:"Run a command while a lease is held."`
	Renew   leaseRenewCmd   `cmd:"" help:"Begin the time of a lease again."`
	Release leaseReleaseCmd `cmd:"" help:"End a lease."`
	Ls      leaseLsCmd      `cmd:"" help:"List the leases of a space."`
}

func (*leaseCmd) Help() string {
	return `A lease is a claim on a key of a space, which one holder has at a time, and which ends by itself. It is as
durable as what is appended. Its number is higher than that of every earlier one: a write that demands it is
refused when the lease is somebody else's by then. A slash is the root space.`
}

// exitHeld is how commands end that need a lease which somebody else holds.
const exitHeld = 3

// exitError ends the program with a code, and with words unless err is nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// orHeld gives the refusal of a lease that somebody else holds its exit code.
func orHeld(err error) error {
	if errors.Is(err, runnel.ErrLeaseHeld) {
		return &exitError{exitHeld, err}
	}
	return err
}

// leasesOf are the leases of a space.
type leasesOf struct {
	Space string `arg:"" help:"The name of a space."`
}

// with connects, and calls do with the space.
func (o leasesOf) with(ctx context.Context, r remote, std stdio, do func(*client.Client, runnel.Space) error) error {
	space, err := r.space(o.Space)
	if err != nil {
		return err
	}
	log, err := r.dial(ctx, std)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // there is nothing under way; a lease that is held ends by itself
	return do(log, space)
}

// leaseArgs are what asks for a lease.
type leaseArgs struct {
	leasesOf
	Key    string            `arg:"" help:"What is claimed."`
	TTL    time.Duration     `name:"ttl" help:"How long the claim holds at a time." default:"30s" placeholder:"TIME"`
	Holder string            `help:"Who claims it; otherwise a name of this process alone. A holder that asks again is given a new lease in place of the old one." placeholder:"NAME"`
	Wait   bool              `help:"Wait for a lease that somebody else holds, instead of ending with code 3."`
	Meta   map[string]string `help:"What others are told about the holder." placeholder:"NAME=VALUE" mapsep:"none"`
}

func (a *leaseArgs) Validate() error {
	if a.TTL < runnel.MinLeaseTTL || a.TTL > runnel.MaxLeaseTTL {
		return fmt.Errorf("--ttl must be between %s and %s, got %s", runnel.MinLeaseTTL, runnel.MaxLeaseTTL, a.TTL)
	}
	return nil
}

func (a *leaseArgs) request() runnel.LeaseRequest {
	holder := a.Holder
	if holder == "" {
		host, _ := os.Hostname() // a name for people; the rest makes it unique
		holder = host + "/" + strconv.Itoa(os.Getpid()) + "/" + uuid.NewString()
	}
	return runnel.LeaseRequest{Key: a.Key, Holder: holder, TTL: a.TTL, Wait: a.Wait, Metadata: a.Meta}
}

// leaseLine is a lease as a line of JSON.
type leaseLine struct {
	Space      string            `json:"space"`
	Key        string            `json:"key"`
	Number     uint64            `json:"number"`
	Holder     string            `json:"holder"`
	Granted    time.Time         `json:"granted"`
	Deadline   time.Time         `json:"deadline"`
	TTLSeconds float64           `json:"ttlSeconds"`
	Metadata   map[string]string `json:"metadata,omitempty"`
}

func leaseLineOf(l runnel.Lease) leaseLine {
	return leaseLine{
		Space: l.Space.Name, Key: l.Key, Number: l.Number, Holder: l.Holder, Granted: l.Granted, Deadline: l.Deadline,
		TTLSeconds: l.TTL.Seconds(), Metadata: l.Metadata,
	}
}

// printLease prints the number, or everything.
func printLease(std stdio, l runnel.Lease, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(std.out).Encode(leaseLineOf(l))
	}
	_, err := fmt.Fprintln(std.out, l.Number)
	return err
}

// givenLease is a lease that was given.
type givenLease struct {
	leasesOf
	Key    string `arg:"" help:"What is claimed."`
	Number uint64 `arg:"" help:"The number of the lease."`
}

func (g givenLease) fence() runnel.Fence { return runnel.Fence{Key: g.Key, Number: g.Number} }

type leaseAcquireCmd struct {
	leaseArgs
	JSON bool `name:"json" help:"Print all about the lease as JSON."`
	remote
}

func (c *leaseAcquireCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, space runnel.Space) error {
		lease, err := log.AcquireLease(ctx, space, c.request())
		if err != nil {
			return orHeld(err)
		}
		return printLease(std, lease, c.JSON)
	})
}

type leaseRenewCmd struct {
	givenLease
	JSON bool `name:"json" help:"Print all about the lease as JSON."`
	remote
}

func (c *leaseRenewCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, space runnel.Space) error {
		lease, err := log.RenewLease(ctx, space, c.fence())
		if err != nil || !c.JSON {
			return err
		}
		return printLease(std, lease, true)
	})
}

type leaseReleaseCmd struct {
	givenLease
	remote
}

func (c *leaseReleaseCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, space runnel.Space) error {
		return log.ReleaseLease(ctx, space, c.fence())
	})
}

type leaseLsCmd struct {
	leasesOf
	Prefix string `help:"List only keys that begin with this." placeholder:"PREFIX"`
	JSON   bool   `name:"json" help:"Print one JSON object to a line."`
	remote
}

func (c *leaseLsCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, space runnel.Space) error {
		return c.print(std, log.Leases(ctx, space, c.Prefix, ""))
	})
}

func (c *leaseLsCmd) print(std stdio, leases iter.Seq2[runnel.Lease, error]) error {
	lines := json.NewEncoder(std.out)
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	n := 0
	for l, err := range leases {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if c.JSON {
			if err := lines.Encode(leaseLineOf(l)); err != nil {
				return err
			}
			continue
		}
		if n == 0 {
			_, _ = fmt.Fprintln(table, "KEY\tNUMBER\tHOLDER\tDEADLINE") // the table keeps an error until it is flushed
		}
		n++
		_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", l.Key, l.Number, l.Holder, l.Deadline.Format(time.RFC3339))
	}
	return table.Flush()
}

type leaseRunCmd struct {
	leaseArgs
	Grace   time.Duration `help:"When this program is asked to end, give the command so long after it has been asked too." default:"10s" placeholder:"TIME"`
	Command []string      `arg:"" passthrough:"partial" help:"The command and its arguments, behind --."`
	remote
}

func (c *leaseRunCmd) Help() string {
	return `The lease is renewed while the command runs and released when it ends. If the lease is lost, or cannot be
renewed in time, the command and what it has started are killed at once. The command finds RUNNEL_LEASE_SPACE,
RUNNEL_LEASE_KEY and RUNNEL_LEASE_NUMBER in its environment: a write that must not happen after the lease,
even if the machine was frozen in between, demands them, as produce does with --fence.

It ends with the code of the command, with 128 and the number of the signal that ended it, with 3 if
somebody else holds the lease, and with 1 if the lease was lost.`
}

func (c *leaseRunCmd) Run(ctx context.Context, std stdio) error {
	command := c.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return usagef("lease run needs a command, behind --")
	}
	return c.with(ctx, c.remote, std, func(log *client.Client, space runnel.Space) error {
		return c.hold(ctx, std, log, space, command)
	})
}

// hold waits for the lease if it is to, and runs the command while it holds.
func (c *leaseRunCmd) hold(ctx context.Context, std stdio, log *client.Client, space runnel.Space, command []string) error {
	// An interrupt ends the wait for the lease, but not the lease before the command has ended.
	holding, letGo := context.WithCancelCause(context.WithoutCancel(ctx))
	defer letGo(nil)
	running := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			letGo(ctx.Err())
		case <-running:
		}
	}()
	err := log.WithLease(holding, space, c.request(), func(held context.Context, l runnel.Lease) error {
		close(running)
		return c.run(held, ctx.Done(), command, std, l)
	})
	if errors.Is(err, runnel.ErrLeaseLost) {
		return fmt.Errorf("the lease was lost, and the command killed: %w", cmp.Or(errLost(err), err))
	}
	return orHeld(err)
}

// errLost is the loss of a lease without what came of it.
func errLost(err error) error {
	if lost, ok := errors.AsType[*runnel.LeaseLostError](err); ok {
		return lost
	}
	return nil
}

// run executes the command until it ends or the lease does. Once asked is closed the command is asked to end,
// and killed if it has not after the grace.
func (c *leaseRunCmd) run(held context.Context, asked <-chan struct{}, command []string, std stdio, l runnel.Lease) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std.in, std.out, std.err
	cmd.Env = append(os.Environ(), "RUNNEL_LEASE_SPACE="+l.Space.Name, "RUNNEL_LEASE_KEY="+l.Key, "RUNNEL_LEASE_NUMBER="+strconv.FormatUint(l.Number, 10))
	cmd.SysProcAttr = ownGroup()
	ended := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		// The command is killed with the thread that has started it, so that thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if started <- err; err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	var grace <-chan time.Time
	for {
		select {
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return &exitError{code: exitCodeOf(exit)}
			}
			return err
		case <-held.Done():
			signalGroup(cmd.Process, syscall.SIGKILL)
			<-ended //nolint:errcheck // that it was killed is known
			return context.Cause(held)
		case <-asked:
			asked = nil
			signalGroup(cmd.Process, syscall.SIGTERM)
			timer := time.NewTimer(c.Grace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			signalGroup(cmd.Process, syscall.SIGKILL)
		}
	}
}

// exitCodeOf is the code a shell would give the end of a process.
func exitCodeOf(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}
