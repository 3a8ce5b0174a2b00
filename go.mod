module github.com/runnelhq/runnel

go 1.26

require github.com/google/uuid v1.6.0

require google.golang.org/protobuf v1.36.12 // indirect
