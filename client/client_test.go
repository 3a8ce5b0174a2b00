package client_test

import (
	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
)

var _ runnel.Log = (*engine.Engine)(nil)
