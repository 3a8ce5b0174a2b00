package session

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// fill sets every field of a value to something that is not zero, and different each time.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1_700_000_000+int64(*n), 123_456_000).UTC()))
		return
	case time.Duration:
		v.SetInt(int64(*n) * int64(time.Millisecond))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field, n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Func: // stays behind
	default:
		panic("what is a " + v.Type().String())
	}
}

// sent is a message as the other end reads it.
func sent[M proto.Message](t *testing.T, m M) M {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := m.ProtoReflect().New().Interface().(M)
	if err := proto.Unmarshal(wire, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestEveryFieldCrossesTheWire fails when a type of the log gets a field that the messages do not carry.
func TestEveryFieldCrossesTheWire(t *testing.T) {
	check := func(name string, value any, cross func() (any, error)) {
		t.Helper()
		fill(reflect.ValueOf(value).Elem(), new(int))
		got, err := cross()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, reflect.ValueOf(value).Elem().Interface()) {
			t.Errorf("%s:\ngot  %+v\nsent %+v", name, got, reflect.ValueOf(value).Elem().Interface())
		}
	}
	var create runnel.CreateOptions
	check("create", &create, func() (any, error) {
		got, err := getCreate(sent(t, putCreate(&create)))
		return *got, err
	})
	var w runnel.Write
	check("append", &w, func() (any, error) {
		segment, o, records, err := getAppend(sent(t, putAppend(runnel.Segment{Name: w.Segment}, &w.Options, w.Records)))
		return runnel.Write{Segment: segment.Name, Options: o, Records: records}, err
	})
	var transaction runnel.Transaction
	check("transaction", &transaction, func() (any, error) {
		_, got, err := getTransaction(sent(t, putTransaction(runnel.Space{}, &transaction)))
		return got, err
	})
	var written runnel.ItemsWritten
	check("items", &written, func() (any, error) { return getItemsWritten(sent(t, putItemsWritten(&written))), nil })
	var view runnel.ItemView
	check("view of items", &view, func() (any, error) {
		m := putItemView(&view)
		for items := range parts(view.Items) {
			m.Items = items
		}
		return getItemView(sent(t, m)), nil
	})
	var news runnel.ItemNews
	check("news of items", &news, func() (any, error) {
		m := putItemNews(&news)
		for items := range parts(news.Items) {
			m.Items = items
		}
		return getItemNews(sent(t, m)), nil
	})
	var watch runnel.ItemWatch
	check("watch of items", &watch, func() (any, error) { return getItemWatch(sent(t, putItemWatch(&watch))), nil })
	var items runnel.ItemQuery
	check("query of items", &items, func() (any, error) {
		_, got := getItemQuery(sent(t, putItemQuery(runnel.Segment{}, &items)))
		return got, nil
	})
	var q runnel.Query
	check("query", &q, func() (any, error) { return getQuery(sent(t, putQuery(&q))), nil })
	var appended runnel.Appended
	check("appended", &appended, func() (any, error) { return getAppended(sent(t, putAppended(&appended))), nil })
	var info runnel.Info
	check("info", &info, func() (any, error) { return getInfo(sent(t, putInfo(&info))), nil })
	var cursor runnel.Cursor
	check("cursor", &cursor, func() (any, error) { return getCursor(sent(t, putCursor(&cursor))), nil })
	var lease runnel.Lease
	check("lease", &lease, func() (any, error) { return getLease(sent(t, putLease(&lease))), nil })
	var entry runnel.Entry
	check("entry", &entry, func() (any, error) { return getEntry(sent(t, putEntry(&entry))) })
}

// typed is one error of each type that the root package has.
var typed = []error{
	&runnel.NameError{}, &runnel.OffsetError{}, &runnel.InvalidError{}, &runnel.TooLargeError{}, &runnel.NotFoundError{},
	&runnel.SoftDeletedError{}, &runnel.ExistsError{}, &runnel.ClosedError{}, &runnel.ContentTypeError{}, &runnel.StreamSeqError{},
	&runnel.ProducerFencedError{}, &runnel.ProducerGapError{}, &runnel.TailMovedError{}, &runnel.TrimmedError{}, &runnel.KeyReusedError{},
	&runnel.BeyondTailError{}, &runnel.BeyondHeadError{}, &runnel.CursorMovedError{}, &runnel.CursorNotFoundError{},
	&runnel.LeaseHeldError{}, &runnel.LeaseLostError{}, &runnel.UnauthorizedError{}, &runnel.ForbiddenError{},
	&runnel.UnavailableError{}, &runnel.StorageFullError{}, &runnel.ItemMovedError{}, &runnel.ItemNotFoundError{},
	&runnel.OperationsError{},
}

func TestEveryErrorComesBackAsWhatItWas(t *testing.T) {
	for _, err := range typed {
		fill(reflect.ValueOf(err).Elem(), new(int))
		t.Run(fmt.Sprintf("%T", err), func(t *testing.T) {
			if got := getError(sent(t, putError(err))); !reflect.DeepEqual(got, err) {
				t.Errorf("got %#v\nwant %#v", got, err)
			}
			wrapped := fmt.Errorf("at the door: %w: %w", runnel.ErrUnknown, err)
			got := getError(sent(t, putError(wrapped)))
			if got.Error() != wrapped.Error() {
				t.Errorf("got %q, want %q", got, wrapped)
			}
			for _, s := range sentinels {
				if errors.Is(got, s.err) != errors.Is(wrapped, s.err) {
					t.Errorf("it matches %v differently", s.err)
				}
			}
			as := reflect.New(reflect.TypeOf(err))
			if !errors.As(got, as.Interface()) || !reflect.DeepEqual(as.Elem().Interface(), err) {
				t.Errorf("inside it is %#v", as.Elem().Interface())
			}
		})
	}
	for _, s := range sentinels {
		if got := getError(sent(t, putError(s.err))); got != s.err { //nolint:errorlint // the same value
			t.Errorf("%v came back as %v", s.err, got)
		}
	}
	plain := errors.New("disk on fire")
	if got := getError(sent(t, putError(plain))); got.Error() != plain.Error() {
		t.Errorf("got %v", got)
	}
}

// TestNoErrorIsForgotten reads which errors the root package has.
func TestNoErrorIsForgotten(t *testing.T) {
	known := make(map[string]bool)
	for _, err := range typed {
		known[reflect.TypeOf(err).Elem().Name()] = true
	}
	values := make(map[error]bool)
	for _, s := range sentinels {
		values[s.err] = true
	}
	paths, err := filepath.Glob("../*.go")
	if err != nil || len(paths) == 0 {
		t.Fatal(err, paths)
	}
	count := 0
	for _, path := range paths {
		if path == "../subscription.go" {
			continue // subscriptions are no part of runnel.Log
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				if strings.HasSuffix(n.Name.Name, "Error") && n.Name.IsExported() && !known[n.Name.Name] {
					t.Errorf("%s does not cross the wire", n.Name.Name)
				}
			case *ast.ValueSpec:
				if strings.HasPrefix(n.Names[0].Name, "Err") {
					count++
				}
			}
			return true
		})
	}
	if count+2 != len(sentinels) { // and the two of contexts
		t.Errorf("%d errors of the root package and %d that cross the wire", count, len(sentinels)-2)
	}
	_ = context.Canceled
}

// TestOldClientsKeepWorking compares the messages with those of the first version: each field must still be
// there, with its number, type and name.
func TestOldClientsKeepWorking(t *testing.T) {
	golden, err := os.ReadFile("testdata/session.v1.binpb")
	if err != nil {
		t.Fatal(err)
	}
	was := new(descriptorpb.FileDescriptorProto)
	if err := proto.Unmarshal(golden, was); err != nil {
		t.Fatal(err)
	}
	now := protodesc.ToFileDescriptorProto(pb.File_session_proto)
	if was.GetPackage() != now.GetPackage() {
		t.Errorf("package %s is now %s", was.GetPackage(), now.GetPackage())
	}
	for _, problem := range brokenMessages("", was.MessageType, now.MessageType) {
		t.Error(problem)
	}
}

func brokenMessages(in string, was, now []*descriptorpb.DescriptorProto) (problems []string) {
	for _, old := range was {
		name := in + old.GetName()
		var current *descriptorpb.DescriptorProto
		for _, m := range now {
			if m.GetName() == old.GetName() {
				current = m
			}
		}
		if current == nil {
			problems = append(problems, name+" is gone")
			continue
		}
		problems = append(problems, brokenMessages(name+".", old.NestedType, current.NestedType)...)
		for _, e := range old.EnumType {
			problems = append(problems, brokenEnum(name+".", e, current.EnumType)...)
		}
		fields := make(map[int32]string)
		for _, f := range current.Field {
			fields[f.GetNumber()] = shape(f)
		}
		for _, f := range old.Field {
			if fields[f.GetNumber()] != shape(f) {
				problems = append(problems, fmt.Sprintf("field %d of %s was %q and is %q", f.GetNumber(), name, shape(f), fields[f.GetNumber()]))
			}
		}
	}
	return problems
}

func shape(f *descriptorpb.FieldDescriptorProto) string {
	s := fmt.Sprintf("%s %v %v %s", f.GetName(), f.GetLabel(), f.GetType(), f.GetTypeName())
	if f.OneofIndex != nil {
		s += " of a choice"
	}
	return s
}

func brokenEnum(in string, was *descriptorpb.EnumDescriptorProto, now []*descriptorpb.EnumDescriptorProto) (problems []string) {
	values := make(map[int32]string)
	for _, e := range now {
		if e.GetName() == was.GetName() {
			for _, v := range e.Value {
				values[v.GetNumber()] = v.GetName()
			}
		}
	}
	for _, v := range was.Value {
		if values[v.GetNumber()] != v.GetName() {
			problems = append(problems, fmt.Sprintf("value %d of %s%s was %s and is %q", v.GetNumber(), in, was.GetName(), v.GetName(), values[v.GetNumber()]))
		}
	}
	return problems
}

func TestACheckOfMessagesSeesWhatBreaks(t *testing.T) {
	now := protodesc.ToFileDescriptorProto(pb.File_session_proto)
	for name, change := range map[string]func(m *descriptorpb.DescriptorProto){
		"a field less":   func(m *descriptorpb.DescriptorProto) { m.Field = m.Field[1:] },
		"another number": func(m *descriptorpb.DescriptorProto) { m.Field[0].Number = new(int32(99)) },
		"another name":   func(m *descriptorpb.DescriptorProto) { m.Field[0].Name = new("other") },
		"another type": func(m *descriptorpb.DescriptorProto) {
			m.Field[0].Type = new(descriptorpb.FieldDescriptorProto_TYPE_BOOL)
		},
		"a message renamed": func(m *descriptorpb.DescriptorProto) { m.Name = new("Other") },
	} {
		changed := proto.CloneOf(now)
		change(changed.MessageType[1])
		if len(brokenMessages("", now.MessageType, changed.MessageType)) == 0 {
			t.Errorf("%s is not seen", name)
		}
	}
}

// TestTheGeneratedCodeIsThatOfTheSource compares what the two files hold.
func TestTheGeneratedCodeIsThatOfTheSource(t *testing.T) {
	source, err := os.ReadFile("internal/pb/session.binpb")
	if err != nil {
		t.Fatal(err)
	}
	was := new(descriptorpb.FileDescriptorProto)
	if err := proto.Unmarshal(source, was); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(was, protodesc.ToFileDescriptorProto(pb.File_session_proto)) {
		t.Error("run go generate ./session")
	}
}

func TestPlacesArePackedAndComeBack(t *testing.T) {
	for _, places := range [][]uint64{{7}, {1, 2, 3}, {9, 8, 7}, {5, 5, 5}, {1, 3, 4, 90}, {1, 2, 3, 2}, {90, 3}} {
		var s steps
		for _, p := range places {
			s.add(p)
		}
		packed := s.done()
		got, err := unpackPlaces(places[0], packed, len(places))
		if err != nil {
			t.Fatal(err)
		}
		for i := range places {
			if got.at(i) != places[i] {
				t.Errorf("%v, packed as %v, has %d at %d", places, packed, got.at(i), i)
			}
		}
	}
}

func TestManyEmptyRecordsComeBackAndAFewBytesDoNotBecomeMany(t *testing.T) {
	got, err := getRecords(sent(t, putRecords(make([]runnel.Record, 100_000))))
	if err != nil || len(got) != 100_000 {
		t.Errorf("%d came back: %v", len(got), err)
	}
	if _, err := getRecords(&pb.Records{Count: 1 << 30}); !errors.Is(err, runnel.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// FuzzRequest and FuzzResponse read what may come from outside: whatever it is, it is an error or a value
// that can be looked at, and takes memory in proportion.
func FuzzRequest(f *testing.F) {
	var n int
	var w runnel.Write
	fill(reflect.ValueOf(&w).Elem(), &n)
	seed, err := proto.Marshal(&pb.Request{Operation: &pb.Request_Append_{Append: putAppend(runnel.Segment{Name: "s"}, &w.Options, w.Records)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(_ *testing.T, data []byte) {
		req := new(pb.Request)
		if proto.Unmarshal(data, req) != nil {
			return
		}
		_ = operationName(req)
		switch r := req.Operation.(type) {
		case *pb.Request_Append_:
			_, _, _, _ = getAppend(r.Append)
		case *pb.Request_Transact_:
			_, _, _ = getTransaction(r.Transact)
		case *pb.Request_Create_:
			_, _ = getCreate(r.Create.GetOptions())
		case *pb.Request_Query_:
			q := getQuery(r.Query)
			_ = q.Validate()
		case *pb.Request_Items:
			_, _ = getItemQuery(r.Items)
		case *pb.Request_WatchItems_:
			w := getItemWatch(r.WatchItems)
			_ = w.Validate()
		case *pb.Request_SendItem:
			e := getItemEvent(r.SendItem)
			_ = e.Validate()
		}
	})
}

func FuzzResponse(f *testing.F) {
	entry := runnel.Entry{Sequence: 1, Position: 2, Transaction: 2, Time: time.Unix(1, 0), Payload: []byte("p"), Metadata: map[string]string{"a": "b"}}
	for _, r := range []*pb.Response{
		{Content: &pb.Response_Batch{Batch: putEntry(&entry)}},
		errorResponse(&runnel.TailMovedError{Segment: runnel.Segment{Name: "s"}, Want: 1, Tail: 2}),
	} {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		resp := new(pb.Response)
		if proto.Unmarshal(data, resp) != nil {
			return
		}
		switch c := resp.Content.(type) {
		case *pb.Response_Batch:
			b, err := getBatch(c.Batch)
			if err != nil {
				return
			}
			for i := range min(b.Len(), 1000) {
				e := b.Entry(i)
				if string(b.Payload(i)) != string(e.Payload) {
					t.Fatal("the payload differs")
				}
			}
			_, _, _ = b.First(), b.Last(), b.Payloads()
		case *pb.Response_Error:
			if err := getError(c.Error); err == nil || err.Error() == "" && c.Error.GetMessage() != "" {
				t.Fatal("an error is none")
			}
		case *pb.Response_Entry:
			_, _ = getEntry(c.Entry)
		case *pb.Response_Item:
			_ = getItem(c.Item)
		case *pb.Response_ItemView:
			_ = getItemView(c.ItemView)
		case *pb.Response_ItemNews:
			_ = getItemNews(c.ItemNews)
		}
	})
}
