package tracing

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"
)

// The numbers of the fields of opentelemetry-proto's stable messages, of those
// that our spans have: no events, no links, attributes that are strings or
// integers.
const (
	requestResourceSpans = 1 // ExportTraceServiceRequest

	resourceSpansResource = 1
	resourceSpansScope    = 2
	resourceAttributes    = 1

	scopeSpansScope = 1
	scopeSpansSpan  = 2
	scopeName       = 1

	spanTraceID    = 1
	spanID         = 2
	spanState      = 3
	spanParentID   = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanStatus     = 15
	spanFlags      = 16

	statusMessage = 2
	statusCode    = 3

	keyValueKey   = 1
	keyValueValue = 2
	anyString     = 1
	anyInt        = 3
)

// statusError is OTLP's; the SDK counts otherwise.
const statusError = 2

// The flags that say whether the parent was a remote one.
const (
	flagsHaveRemote = 0x100
	flagsRemote     = 0x200
)

// encode gives an ExportTraceServiceRequest of spans of one provider.
func encode(spans []sdktrace.ReadOnlySpan) []byte {
	if len(spans) == 0 {
		return nil
	}
	var resource []byte
	for _, kv := range spans[0].Resource().Attributes() {
		resource = appendMessage(resource, resourceAttributes, keyValue(kv))
	}
	inScope := appendMessage(nil, scopeSpansScope, appendString(nil, scopeName, spans[0].InstrumentationScope().Name))
	for _, s := range spans {
		inScope = appendMessage(inScope, scopeSpansSpan, span(s))
	}
	all := appendMessage(nil, resourceSpansResource, resource)
	all = appendMessage(all, resourceSpansScope, inScope)
	return appendMessage(nil, requestResourceSpans, all)
}

func span(s sdktrace.ReadOnlySpan) []byte {
	own, parent := s.SpanContext(), s.Parent()
	id, traceID := own.SpanID(), own.TraceID()
	b := appendMessage(nil, spanTraceID, traceID[:])
	b = appendMessage(b, spanID, id[:])
	b = appendString(b, spanState, own.TraceState().String())
	if parent.HasSpanID() {
		id := parent.SpanID()
		b = appendMessage(b, spanParentID, id[:])
	}
	b = appendString(b, spanName, s.Name())
	b = appendNumber(b, spanKind, uint64(trace.ValidateSpanKind(s.SpanKind())))
	b = protowire.AppendFixed64(protowire.AppendTag(b, spanStart, protowire.Fixed64Type), uint64(s.StartTime().UnixNano()))
	b = protowire.AppendFixed64(protowire.AppendTag(b, spanEnd, protowire.Fixed64Type), uint64(s.EndTime().UnixNano()))
	for _, kv := range s.Attributes() {
		b = appendMessage(b, spanAttributes, keyValue(kv))
	}
	if st := s.Status(); st.Code == codes.Error {
		b = appendMessage(b, spanStatus, appendNumber(appendString(nil, statusMessage, st.Description), statusCode, statusError))
	}
	flags := uint32(own.TraceFlags()) | flagsHaveRemote
	if parent.IsRemote() {
		flags |= flagsRemote
	}
	return protowire.AppendFixed32(protowire.AppendTag(b, spanFlags, protowire.Fixed32Type), flags)
}

func keyValue(kv attribute.KeyValue) []byte {
	var value []byte
	if kv.Value.Type() == attribute.INT64 {
		value = appendNumber(value, anyInt, uint64(kv.Value.AsInt64()))
	} else {
		value = appendString(value, anyString, kv.Value.AsString())
	}
	return appendMessage(appendString(nil, keyValueKey, string(kv.Key)), keyValueValue, value)
}

// appendMessage appends bytes, or a message that is encoded.
func appendMessage(b []byte, field protowire.Number, message []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), message)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}
