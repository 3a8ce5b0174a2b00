package auth

import (
	"encoding/json"
	"strings"
)

// texts is a claim that is a text with spaces between the parts, or a list of texts.
type texts []string

// UnmarshalJSON refuses anything else.
func (t *texts) UnmarshalJSON(data []byte) error {
	var list []string
	if len(data) > 0 && data[0] == '[' {
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		*t = list
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*t = strings.Fields(text)
	return nil
}
