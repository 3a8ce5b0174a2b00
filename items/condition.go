package items

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"cel.dev/cel-go/cel"
)

// conditionCost bounds what one evaluation may do.
const conditionCost = 100_000

// Condition returns what tells whether a change fulfils an expression in CEL, of these variables:
//
//	stream, group, item, event   strings; event is "create", "update", "delete", or "event" of what was sent
//	event_type                   the type of an event that was sent, otherwise empty
//	value                        the value of the item, what it was before a deletion, or the data of an event
//
// For example: event == "update" && value.status == "failed". Numbers without a fraction are integers as far
// as CEL has them, through 64 bits. An expression that is not true or false, or reaches for a field that is
// not there, fails.
func Condition(expression string) (func(*TriggerEvent) (bool, error), error) {
	eval, err := compile(expression, "value", "stream", "group", "item", "event", "event_type")
	if err != nil {
		return nil, err
	}
	return func(e *TriggerEvent) (bool, error) {
		return eval(e.Value, map[string]any{"stream": e.Stream, "group": e.Group, "item": e.Item, "event": e.Kind, "event_type": e.Type})
	}, nil
}

// HookCondition returns what tells whether a subscription fulfils an expression in CEL, of these variables:
//
//	stream, group, item, prefix, subscription   strings, empty where the subscription has none
//	several                                     whether it is to several groups; then group is empty
//	transport, subject                          strings, as in a [Subscription]
//	context                                     what Connect has returned
//
// A subscription to a whole group has no item, and one to several groups no group, and yet both are given
// every item: what guards a group or an item is to select it with the fields of a [Hook].
func HookCondition(expression string) (func(*Subscription) (bool, error), error) {
	eval, err := compile(expression, "context", "stream", "group", "item", "prefix", "subscription", "transport", "subject", "several")
	if err != nil {
		return nil, err
	}
	return func(s *Subscription) (bool, error) {
		return eval(s.Context, map[string]any{
			"stream": s.Stream, "group": s.Group, "item": deref(s.Item), "prefix": s.Prefix, "subscription": s.ID,
			"transport": s.Transport, "subject": s.Subject, "several": s.Group == "",
		})
	}, nil
}

// compile returns what evaluates an expression of a variable that is JSON and of others.
func compile(expression, document string, names ...string) (func(text []byte, of map[string]any) (bool, error), error) {
	variables := []cel.EnvOption{cel.Variable(document, cel.DynType)}
	for _, name := range names {
		kind := cel.StringType
		if name == "several" {
			kind = cel.BoolType
		}
		variables = append(variables, cel.Variable(name, kind))
	}
	env, err := cel.NewEnv(variables...)
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	ast, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("condition: %s is a %s, not true or false", expression, t)
	}
	program, err := env.Program(ast, cel.CostLimit(conditionCost))
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return func(text []byte, of map[string]any) (bool, error) {
		value, err := celValue(text)
		if err != nil {
			return false, err
		}
		of[document] = value
		out, _, err := program.Eval(of)
		if err != nil {
			return false, err
		}
		ok, isBool := out.Value().(bool)
		if !isBool {
			return false, fmt.Errorf("the condition is %v, not true or false", out.Value())
		}
		return ok, nil
	}, nil
}

// celValue reads JSON for an expression; nothing is null.
func celValue(text []byte) (any, error) {
	if len(text) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	return withNumbers(value)
}

// withNumbers makes integers of the numbers in a value where that is exact, and floating-point of the others.
func withNumbers(value any) (_ any, err error) {
	switch v := value.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, nil
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n, nil
		}
		return v.Float64()
	case map[string]any:
		for key := range v {
			if v[key], err = withNumbers(v[key]); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = withNumbers(v[i]); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}
