package record_test

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// sealed returns the value of a run with a header up to the checksum, the right checksum, and a body.
func sealed(header, body []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(body, table), table, header)
	return slices.Concat(header, binary.LittleEndian.AppendUint32(nil, sum), body)
}
