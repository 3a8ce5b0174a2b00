package engine

import (
	"bytes"
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
		from := afterSpace
		if o.Direct {
			from = max(from, within)
		}
		for part, err := range e.driver.Partitions(ctx, store, from) {
			if err != nil {
				yield(runnel.Info{}, storageError(err))
				return
			}
			var names string
			switch {
			case part.Name == within:
				names = rest
			case o.Direct:
				return
			case part.Name == "" || !strings.HasPrefix(part.Name+"/", o.Prefix):
				if part.Name > o.Prefix && !strings.HasPrefix(part.Name, o.Prefix) {
					return
				}
				continue
			}
			behind := ""
			if o.After != "" && part.Name == afterSpace {
				behind = afterName
			}
			for info, err := range e.listSpace(ctx, part, names, behind) {
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

// storesPage is how many stores are read at once.
const storesPage = 4096

// Stores yields the stores that somebody has written to, ordered by their bytes, beginning behind after.
// The zero store, which is the default one, is behind no other: a zero after is the beginning.
func (e *Engine) Stores(ctx context.Context, after runnel.Store) iter.Seq2[runnel.Store, error] {
	return func(yield func(runnel.Store, error) bool) {
		from := after
		for {
			page, err := e.storePage(ctx, from)
			for _, store := range page {
				written, werr := e.written(ctx, store)
				if werr != nil {
					yield(runnel.Store{}, werr)
					return
				}
				if written && !yield(store, nil) {
					return
				}
			}
			if err != nil {
				yield(runnel.Store{}, err)
				return
			}
			if len(page) < storesPage {
				return
			}
			from = page[len(page)-1]
		}
	}
}

// storePage reads some of the stores that storage holds.
func (e *Engine) storePage(ctx context.Context, after runnel.Store) ([]runnel.Store, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.operations.Done()
	var page []runnel.Store
	for store, err := range e.driver.Stores(ctx) {
		if err != nil {
			return page, storageError(err)
		}
		if after != (runnel.Store{}) && bytes.Compare(store[:], after[:]) <= 0 {
			continue
		}
		if page = append(page, store); len(page) == storesPage {
			break
		}
	}
	return page, nil
}

// written tells whether a space of a store has a durable commit.
func (e *Engine) written(ctx context.Context, store runnel.Store) (bool, error) {
	for _, err := range e.Spaces(ctx, store, "", "") {
		return err == nil, err
	}
	return false, nil
}

// Spaces yields the spaces of a store that somebody has written to and whose names have a prefix, ordered
// by the bytes of their names, beginning behind the name after, which need not exist. The root space,
// whose name is empty, is behind no other. A space stays when its last segment is gone: its positions go
// on.
func (e *Engine) Spaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	return func(yield func(runnel.Space, error) bool) {
		after := after
		for {
			page, err := e.spacePage(ctx, store, prefix, after)
			if err != nil {
				yield(runnel.Space{}, err)
				return
			}
			for _, space := range page {
				// What storage shows may not be durable yet.
				head, err := e.head(ctx, space)
				if err != nil {
					yield(runnel.Space{}, err)
					return
				}
				if head > 0 && !yield(space, nil) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
			after = page[len(page)-1].Name
		}
	}
}

// spacePage reads some of the spaces that storage holds, beginning behind a name.
func (e *Engine) spacePage(ctx context.Context, store runnel.Store, prefix, after string) ([]runnel.Space, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.operations.Done()
	var page []runnel.Space
	for space, err := range e.driver.Partitions(ctx, store, max(prefix, after)) {
		if err != nil {
			return nil, storageError(err)
		}
		if after != "" && space.Name <= after {
			continue
		}
		if !strings.HasPrefix(space.Name, prefix) {
			break
		}
		if page = append(page, space); len(page) == listPage {
			break
		}
	}
	return page, nil
}
