// Command runnel serves durable streams over HTTP, and reads and writes them from the command line.
//
//	runnel serve                        serve streams from ./data on 127.0.0.1:4437
//	echo hello | runnel append greeting append standard input to a stream
//	runnel tail --from -1 greeting      print what it holds and what is still to come
//
// Every command explains itself with --help. It exits with 0 when it did what was asked, with 1 when that
// failed, and with 2 when it was called wrongly; what went wrong is on standard error. The commands of leases
// say what other codes they have.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// commands is the whole command line.
type commands struct {
	Serve   serveCmd   `cmd:"" help:"Serve streams over HTTP."`
	Append  appendCmd  `cmd:"" help:"Append standard input, or arguments, to a stream."`
	Read    readCmd    `cmd:"" help:"Print what a stream holds."`
	Tail    tailCmd    `cmd:"" help:"Print what is appended to a stream, as it comes."`
	Create  createCmd  `cmd:"" help:"Create a stream."`
	Fork    forkCmd    `cmd:"" help:"Create a stream that begins with the data of another one."`
	Close   closeCmd   `cmd:"" help:"Let nothing more be appended to a stream."`
	Stat    statCmd    `cmd:"" help:"Describe a stream."`
	Ls      lsCmd      `cmd:"" help:"List streams."`
	Rm      rmCmd      `cmd:"" help:"Delete streams."`
	Items   itemsCmd   `cmd:"" help:"Read, write and watch items."`
	Token   tokenCmd   `cmd:"" help:"Make, list and revoke tokens, which say who may do what."`
	Produce produceCmd `cmd:"" group:"Log:" help:"Append records to a segment, with metadata and conditions."`
	Consume consumeCmd `cmd:"" group:"Log:" help:"Print the entries of a segment, a space or several."`
	Cursor  cursorCmd  `cmd:"" group:"Log:" help:"List and move the stored places of readers."`
	Lease   leaseCmd   `cmd:"" group:"Log:" help:"Claim keys for a time, and run commands while a claim holds."`
	Workers workersCmd `cmd:"" group:"Log:" help:"List the workers that are present in a space."`
	Sub     subCmd     `cmd:"" help:"Work with subscriptions: who is told of new entries."`
	Version versionCmd `cmd:"" help:"Print the version of this program."`
}

// stdio is where a command reads from and writes to.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// note tells the user something on standard error. If that fails there is nobody to tell.
func (s stdio) note(format string, args ...any) {
	_, _ = fmt.Fprintf(s.err, "runnel: "+format+"\n", args...)
}

func main() {
	os.Exit(run(os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// run executes one command line and returns the exit code.
func run(args []string, std stdio) int {
	exited := -1 // set when kong has answered by itself, which is how --help ends
	var cmd commands
	parser, err := kong.New(&cmd,
		kong.Name("runnel"),
		kong.Description("One durable, ordered log, served as Durable Streams over HTTP."),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { exited = code }),
		kong.Vars{"url": defaultURL},
		kong.WithHyphenPrefixedParameters(true), // for --offset -1
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	if err != nil {
		panic(err) // the tags of commands are wrong, whatever the arguments are
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		std.note("%v", err)
		var parse *kong.ParseError
		if errors.As(err, &parse) && parse.Context.Selected() != nil {
			std.note("see \"%s --help\"", parse.Context.Selected().FullPath())
		}
		return exitUsage
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kctx.BindTo(ctx, (*context.Context)(nil))
	if err := kctx.Run(std); err != nil {
		return report(err, std)
	}
	return exitOK
}

// said is the text of an error, without the name of this program in front, which a note has already.
func said(err error) string { return strings.TrimPrefix(err.Error(), "runnel: ") }

// usageError is a mistake in how the program was called that only shows when the command runs.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// report prints why a command failed and returns its exit code. A reader that went away needs no words,
// and neither does the user's own interrupt.
func report(err error, std stdio) int {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, context.Canceled) {
		return exitFailure
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		if exit.err != nil {
			std.note("%s", said(exit.err))
		}
		return exit.code
	}
	std.note("%s", said(err))
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}
