package items

import (
	"encoding/json"
	"fmt"

	"cel.dev/cel-go/cel"
)

// conditionCost bounds what one evaluation may do.
const conditionCost = 100_000

// Condition returns what tells whether a change fulfils an expression in CEL, of these variables:
//
//	stream, group, item, event   strings; event is "create", "update" or "delete"
//	value                        the value of the item, or what it was before a deletion
//
// For example: event == "update" && value.status == "failed". An expression that is not true or false, or
// reaches for a field that is not there, fails.
func Condition(expression string) (func(*TriggerEvent) (bool, error), error) {
	env, err := cel.NewEnv(
		cel.Variable("stream", cel.StringType), cel.Variable("group", cel.StringType), cel.Variable("item", cel.StringType),
		cel.Variable("event", cel.StringType), cel.Variable("value", cel.DynType),
	)
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
	return func(e *TriggerEvent) (bool, error) {
		var value any
		if e.Value != nil {
			if err := json.Unmarshal(e.Value, &value); err != nil {
				return false, err
			}
		}
		out, _, err := program.Eval(map[string]any{"stream": e.Stream, "group": e.Group, "item": e.Item, "event": e.Kind, "value": value})
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
