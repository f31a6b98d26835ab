package cri

import "encoding/json"

// info is the answer to verbose: one JSON object under the key "info", as
// crictl expects it.
func info(v map[string]any) map[string]string {
	b, err := json.Marshal(v)
	if err != nil {
		return nil // for people only; not worth failing a status for
	}
	return map[string]string{"info": string(b)}
}

// batchSize is how many items one message of a stream carries: far from the
// limit of a message even when each item has kilobytes of annotations.
const batchSize = 500

// metricsBatchSize is the like for pods with their metrics: some tens of
// kilobytes for each container.
const metricsBatchSize = 10

// inBatches sends items in non-empty pieces, none at all if there are none.
func inBatches[T any](items []T, send func([]T) error) error {
	return inBatchesOf(batchSize, items, send)
}

func inBatchesOf[T any](size int, items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(size, len(items))
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
