package api

import (
	"encoding/json"
	"slices"
	"sync"

	"google.golang.org/grpc/encoding"
)

// Codec puts this package's messages on the wire.
type Codec struct{}

// Name is the content-subtype by which a server finds the codec.
func (Codec) Name() string { return "json" }

// Marshal encodes one message.
func (Codec) Marshal(v any) ([]byte, error) {
	if f, ok := v.(*Frame); ok {
		return f.marshal(), nil
	}
	if c, ok := v.(*Chunk); ok {
		// grpc sends later than SendMsg returns, and the caller reads the next
		// chunk into the same buffer.
		return slices.Clone(c.Data), nil
	}
	return json.Marshal(v)
}

// Unmarshal decodes one message.
func (Codec) Unmarshal(data []byte, v any) error {
	if f, ok := v.(*Frame); ok {
		return f.unmarshal(data)
	}
	if c, ok := v.(*Chunk); ok {
		// The buffer goes back to grpc's pool after this call.
		c.Data = slices.Clone(data)
		return nil
	}
	return json.Unmarshal(data, v)
}

// registerCodec makes the codec known to grpc servers of this process. grpc
// keeps codecs by name in a map without a lock that is read by each call,
// hence only before serving and only once.
var registerCodec = sync.OnceFunc(func() { encoding.RegisterCodec(Codec{}) })
