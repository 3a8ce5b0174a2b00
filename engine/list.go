package engine

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// listPage is how many names are read before their segments are looked at.
const listPage = 256

// List yields the segments of a store, ordered by space and then by name, both bytewise. Each is
// described as of the moment it is yielded; one that comes or goes meanwhile may be missed or not.
func (e *Engine) List(ctx context.Context, store runnel.Store, o runnel.ListOptions) iter.Seq2[runnel.Info, error] {
	return func(yield func(runnel.Info, error) bool) {
		if err := e.begin(); err != nil {
			yield(runnel.Info{}, err)
			return
		}
		defer e.operations.Done()
		if strings.HasPrefix(o.Prefix, "/") {
			return // no path begins so
		}
		left := o.Limit
		afterSpace, afterName := splitPath(o.After)
		// A prefix with a slash in it also names segments of the one space before that slash.
		within, rest := splitPath(o.Prefix)
		for part, err := range e.driver.Partitions(ctx, store, afterSpace) {
			if err != nil {
				yield(runnel.Info{}, storageError(err))
				return
			}
			var names string
			switch {
			case part.Name == within:
				names = rest
			case part.Name == "" || !strings.HasPrefix(part.Name+"/", o.Prefix):
				if part.Name > o.Prefix && !strings.HasPrefix(part.Name, o.Prefix) {
					return
				}
				continue
			}
			from := ""
			if o.After != "" && part.Name == afterSpace {
				from = afterName
			}
			for info, err := range e.listSpace(ctx, part, names, from) {
				if !yield(info, err) || err != nil {
					return
				}
				if left--; left == 0 {
					return
				}
			}
		}
	}
}

// splitPath cuts a path, or the beginning of one, into space and name.
func splitPath(path string) (space, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// listSpace yields the segments of one space whose names begin with prefix and come after a name.
func (e *Engine) listSpace(ctx context.Context, part storage.Partition, prefix, after string) iter.Seq2[runnel.Info, error] {
	return func(yield func(runnel.Info, error) bool) {
		r := kindRange(keyDescriptor)
		r.Limit = listPage
		if prefix != "" {
			r.From = descriptorKey(prefix)
		}
		if after != "" && after >= prefix {
			r.From = append(descriptorKey(after), 0)
		}
		for {
			names, err := e.listNames(ctx, part, r, prefix)
			if err != nil {
				yield(runnel.Info{}, err)
				return
			}
			for _, name := range names {
				info, err := e.Stat(ctx, part.Segment(name))
				if errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted) {
					continue
				}
				if !yield(info, err) || err != nil {
					return
				}
			}
			if len(names) < listPage {
				return
			}
			r.From = append(descriptorKey(names[len(names)-1]), 0)
		}
	}
}

// listNames reads one page of names, and waits until what it read is durable.
func (e *Engine) listNames(ctx context.Context, part storage.Partition, r storage.Range, prefix string) ([]string, error) {
	sp, err := e.enter(ctx, part)
	if err != nil {
		return nil, err
	}
	defer sp.leave()
	var names []string
	for pair, err := range e.driver.Scan(ctx, part, r) {
		if err != nil {
			return nil, storageError(err)
		}
		name := string(pair.Key[1:])
		if !strings.HasPrefix(name, prefix) {
			break
		}
		names = append(names, name)
	}
	return names, sp.barrier(ctx)
}
